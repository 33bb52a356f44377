// One clock for all that looks again and again: values in the canvas, drawings. A page that plays sound keeps it going.

const PERIOD = 20; // milliseconds

const calls = new Set<(now: number) => void>();
let timer: ReturnType<typeof setInterval> | undefined;

/** Calls back at every beat; returns what ends it. */
export function everyBeat(call: (now: number) => void): () => void {
  calls.add(call);
  timer ??= setInterval(() => {
    for (const one of calls) {
      try {
        one(performance.now());
      } catch (error) {
        reportError(error); // and the others go on
      }
    }
  }, PERIOD);
  return () => {
    calls.delete(call);
    if (calls.size) return;
    clearInterval(timer);
    timer = undefined;
  };
}

/** Draws what is on the page, with so many milliseconds between two drawings at least. */
export function whileShown(element: Element, draw: (now: number) => void, period = 2 * PERIOD): () => void {
  let last = 0;
  return everyBeat((now) => {
    if (now - last < period - 1 || !element.isConnected || document.hidden) return;
    last = now;
    draw(now);
  });
}
