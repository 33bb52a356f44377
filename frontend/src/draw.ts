// Drawings of a session: its sound over one round, and its ring. Colours that must be told apart are clear on light and dark.

import type { Figures } from "./protocol.ts";
import type { Waveform } from "./waveform.ts";
import { worded } from "./words.ts";

const HEAD = "#3b82f6";
const FRESH = "#d97706";
const FRESH_MS = 3000; // that a change stays marked
const GAP = 2; // pixels

/** Fits the drawing to the element and clears it; null where there is no room. */
function sheet(canvas: HTMLCanvasElement): CanvasRenderingContext2D | null {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  if (!width || !height) return null;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d")!;
  context.clearRect(0, 0, width, height);
  return context;
}

/** Draws the peaks, what has just changed in another colour, and the playhead. */
export function drawWaveform(canvas: HTMLCanvasElement, waveform: Waveform, position: number, now: number): void {
  const context = sheet(canvas);
  if (!context) return;
  const { width, height } = canvas;
  const { peaks, changed } = waveform;
  const plain = getComputedStyle(canvas).color;
  for (let x = 0; x < width; x++) {
    const begin = Math.floor((x * peaks.length) / width);
    const end = Math.max(begin + 1, Math.floor(((x + 1) * peaks.length) / width));
    let peak = 0;
    let fresh = 0;
    for (let i = begin; i < end; i++) {
      peak = Math.max(peak, peaks[i]!);
      fresh = Math.max(fresh, changed[i]!);
    }
    context.fillStyle = fresh && now - fresh < FRESH_MS ? FRESH : plain;
    const tall = Math.max(1, peak * height);
    context.fillRect(x, (height - tall) / 2, 1, tall);
  }
  context.fillStyle = HEAD;
  context.fillRect(Math.round(waveform.place(position) * (width - 2)), 0, 2, height);
}

/** Draws the slots of the ring side by side, each filled as far as its steps are done. */
export function drawRing(canvas: HTMLCanvasElement, slots: NonNullable<Figures["slots"]>): void {
  const context = sheet(canvas);
  if (!context) return;
  const { width, height } = canvas;
  const each = width / Math.max(1, slots.length);
  const plain = getComputedStyle(canvas).color;
  for (const [i, [done, steps]] of slots.entries()) {
    const part = (each - GAP) / Math.max(1, steps);
    for (let step = 0; step < Math.max(1, steps); step++) {
      context.globalAlpha = step < done ? 1 : 0.25;
      context.fillStyle = step < done ? HEAD : plain;
      context.fillRect(i * each + step * part, 0, Math.max(1, part - 1), height);
    }
  }
  context.globalAlpha = 1;
}

/** The ring in words, for those who do not see it. */
export function ringText(slots: NonNullable<Figures["slots"]>): string {
  return worded(
    "Ring: %1",
    slots.map(([done, steps]) => (steps ? worded("%1 of %2 steps", done, steps) : worded("free"))).join(", "),
  );
}
