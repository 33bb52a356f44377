// Controllers that turn widgets: what a MIDI device sends, and which widget it means. The map is plain JSON; it holds
// names of devices and widgets, and nothing of the browser.

import type { Value, Widget } from "./protocol.ts";

/** How a controller tells its place: where it is (7 or 14 bits), or how far it was turned, in one of three codes. */
export type Mode = "absolute" | "14 bit" | "twos complement" | "offset" | "sign";

/** One controller and its widget. `low` and `high` are the ends of its way; `low` may be the larger. */
export interface Binding {
  node: string;
  input: string;
  device: string; // as the system names it; "" for any
  kind: "cc" | "note" | "axis" | "button";
  channel: number; // 0 to 15; of a gamepad 0
  number: number; // of the controller, note, axis or button
  mode: Mode;
  low: number;
  high: number;
}

export const MODES: readonly Mode[] = ["absolute", "14 bit", "twos complement", "offset", "sign"];
export const MOST = 256; // bindings of a map
const KINDS = ["cc", "note", "axis", "button"];
const NOTE_ON = 0x90;
const CONTROL = 0xb0;
const FINE = 32; // a controller below this has its lower 7 bits in the one this much higher
const WIDE = 1e4; // a range from here on is no way for a controller
const LEARNED = 3; // messages after which a controller is known

/** What a controller sent. `fine` is set where the lower bits of a pair came. */
export interface Event {
  device: string;
  kind: "cc" | "note";
  channel: number;
  number: number;
  value: number; // 0 to 127
}

/** Reads a message; null for one that is neither a controller nor a note that begins. */
export function readMidi(data: ArrayLike<number>, device: string): Event | null {
  if (data.length < 3) return null;
  const [status, number, value] = [data[0]!, data[1]! & 0x7f, data[2]! & 0x7f];
  const channel = status & 0x0f;
  if ((status & 0xf0) === CONTROL) return { device, kind: "cc", channel, number, value };
  if ((status & 0xf0) === NOTE_ON && value > 0) return { device, kind: "note", channel, number, value };
  return null;
}

/** How far a relative controller was turned, in steps; below 0 to the left. */
export function stepsOf(mode: Mode, value: number): number {
  if (mode === "offset") return value - 64;
  if (mode === "sign") return value < 64 ? value : 64 - value;
  return value < 64 ? value : value - 128;
}

/** The way of a controller over a widget: its limits, or what lies around its value where those are very wide. */
export function rangeOf({ min, max, value }: Widget): { low: number; high: number } {
  if (min !== undefined && max !== undefined && max - min <= WIDE) return { low: min, high: max };
  const reach = typeof value === "number" && value !== 0 ? 2 * Math.abs(value) : 1;
  return {
    low: Math.max(min ?? -reach, typeof value === "number" && value < 0 ? -reach : 0),
    high: Math.min(max ?? reach, reach),
  };
}

/** Brings a number to what the widget takes: within its limits and on its steps. */
export function fitted(widget: Widget, value: number): number {
  const { kind, min, max, step } = widget;
  const unit = step ?? (kind === "whole" ? 1 : 0);
  const base = min !== undefined && Math.abs(min) <= WIDE ? min : 0;
  const even = unit ? base + Math.round((value - base) / unit) * unit : value;
  const kept = Math.min(max ?? Number.POSITIVE_INFINITY, Math.max(min ?? Number.NEGATIVE_INFINITY, even));
  return kind === "whole" ? Math.round(kept) : Number(kept.toPrecision(12));
}

/** The value of a widget at a share of a binding's way; null for one that has no numbers. */
export function valueAt(widget: Widget, { low, high }: Binding, share: number): Value | null {
  if (widget.kind === "number" || widget.kind === "whole") return fitted(widget, low + (high - low) * share);
  if (widget.kind === "toggle") return share >= 0.5;
  const options = widget.kind === "choice" ? (widget.options ?? []) : [];
  return options.length ? options[Math.min(options.length - 1, Math.floor(share * options.length))]! : null;
}

/** The value of a widget after a note or a button: the other one, the other end, or the next choice. */
export function toggled(widget: Widget, { low, high }: Binding): Value | null {
  const { value } = widget;
  if (widget.kind === "toggle") return !value;
  if (widget.kind === "choice") {
    const options = widget.options ?? [];
    return options[(options.indexOf(value as string) + 1) % options.length] ?? null;
  }
  if (typeof value !== "number") return null;
  return fitted(widget, Math.abs(value - high) < Math.abs(value - low) ? low : high);
}

/** Reads a map that somebody else may have written; what is no binding is left out. */
export function readMap(data: unknown): Binding[] {
  if (!Array.isArray(data)) return [];
  return data.slice(0, MOST).filter(isBinding);
}

function isBinding(one: unknown): one is Binding {
  const it = one as Binding;
  return (
    typeof one === "object" &&
    one !== null &&
    [it.node, it.input, it.device].every((text) => typeof text === "string" && text.length <= 100) &&
    KINDS.includes(it.kind) &&
    MODES.includes(it.mode) &&
    [it.channel, it.number].every((n) => Number.isInteger(n) && n >= 0 && n < 128) &&
    Number.isFinite(it.low) &&
    Number.isFinite(it.high)
  );
}

/** The devices that a map names and that are not there. */
export function missingDevices(map: Binding[], there: string[]): string[] {
  const named = new Set(map.map(({ device }) => device).filter(Boolean));
  return [...named].filter((name) => !there.includes(name)).sort();
}

/** Guesses how a controller speaks by its first values: one that repeats itself is relative, for a place does not. */
export function modeOf(values: number[]): Mode {
  const repeats = values.some((value, i) => i > 0 && value === values[i - 1]);
  const near = (low: number, high: number) => values.every((value) => value >= low && value <= high);
  if (repeats && near(60, 68)) return "offset";
  if (repeats && values.every((value) => value <= 4 || value >= 124)) return "twos complement";
  if (repeats && values.every((value) => value <= 4 || (value > 64 && value <= 68))) return "sign";
  return "absolute";
}

/** A map at work: takes what devices send, turns widgets, and learns. */
export class Midi {
  private readonly coarse = new Map<string, number>(); // upper 7 bits that came last, by controller
  private learning: { widget: Widget; events: Event[] } | null = null;

  /**
   * @param map is changed by learning
   * @param find the widget of a place, with the value of now
   * @param turn told each value
   * @param learned told that the map has changed
   */
  constructor(
    public map: Binding[],
    private readonly find: (node: string, input: string) => Widget | undefined,
    private readonly turn: (widget: Widget, value: Value) => void,
    private readonly learned: (binding: Binding | null) => void = () => {},
  ) {}

  /** The next controller that is moved, or key that is struck, is this widget's. */
  learn(widget: Widget): void {
    this.learning = { widget, events: [] };
  }

  get waits(): Widget | null {
    return this.learning?.widget ?? null;
  }

  cancel(): void {
    this.learning = null;
  }

  forget(node: string, input: string): void {
    this.map = this.map.filter((one) => one.node !== node || one.input !== input);
    this.learned(null);
  }

  /** Takes a message of a device. */
  take(data: ArrayLike<number>, device: string): void {
    const event = readMidi(data, device);
    if (!event) return;
    if (this.learning) this.note(event);
    else for (const binding of this.map) this.follow(binding, event);
  }

  /** Binds a controller to a widget, in place of what it had, and of what the widget had. */
  bind(widget: Widget, given: Pick<Binding, "device" | "kind" | "channel" | "number" | "mode">): Binding {
    const made = { node: widget.node, input: widget.input, ...rangeOf(widget), ...given };
    this.map = [
      ...this.map.filter((one) => !same(one, made) && !(one.node === made.node && one.input === made.input)),
      made,
    ].slice(-MOST);
    this.learned(made);
    return made;
  }

  private note(event: Event): void {
    const { widget, events } = this.learning!;
    const first = events[0];
    const pair = first && event.number === first.number + FINE && first.number < FINE;
    if (first && (event.kind !== first.kind || event.channel !== first.channel || event.device !== first.device))
      return;
    if (first && event.number !== first.number && !pair) return;
    events.push(event);
    if (event.kind === "cc" && !pair && events.length < LEARNED) return;
    this.learning = null;
    const { device, kind, channel, number } = events[0]!;
    const mode = pair ? "14 bit" : kind === "cc" ? modeOf(events.map(({ value }) => value)) : "absolute";
    this.bind(widget, { device, kind, channel, number, mode });
  }

  private follow(binding: Binding, event: Event): void {
    const { device, kind, channel, number, mode } = binding;
    if (kind !== event.kind || channel !== event.channel || (device && device !== event.device)) return;
    const key = `${event.device} ${channel} ${number}`;
    const fine = mode === "14 bit" && event.number === number + FINE;
    if (event.number !== number && !fine) return;
    const widget = this.find(binding.node, binding.input);
    if (!widget) return;
    let value: Value | null;
    if (kind === "note") value = toggled(widget, binding);
    else if (mode === "absolute") value = valueAt(widget, binding, event.value / 127);
    else if (mode === "14 bit") {
      if (!fine) this.coarse.set(key, event.value);
      value = valueAt(widget, binding, ((this.coarse.get(key) ?? 0) * 128 + (fine ? event.value : 0)) / 16383);
    } else value = moved(widget, binding, stepsOf(mode, event.value));
    if (value !== null && value !== widget.value) this.turn(widget, value);
  }
}

function same(a: Pick<Binding, "device" | "kind" | "channel" | "number">, b: typeof a): boolean {
  return a.device === b.device && a.kind === b.kind && a.channel === b.channel && a.number === b.number;
}

/** The value after a relative controller was turned: 128 steps are the whole way, and a step at least one of the widget. */
function moved(widget: Widget, { low, high }: Binding, steps: number): Value | null {
  if (widget.kind === "toggle") return steps > 0;
  if (widget.kind === "choice") {
    const options = widget.options ?? [];
    const at = options.indexOf(widget.value as string) + Math.sign(steps);
    return options[Math.min(options.length - 1, Math.max(0, at))] ?? null;
  }
  if (typeof widget.value !== "number") return null;
  const unit =
    Math.max(Math.abs(high - low) / 128, widget.step ?? (widget.kind === "whole" ? 1 : 0)) * Math.sign(high - low);
  const [from, to] = low < high ? [low, high] : [high, low];
  return fitted(widget, Math.min(to, Math.max(from, widget.value + steps * unit)));
}
