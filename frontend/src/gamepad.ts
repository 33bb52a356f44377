// A gamepad as a controller: axes are places, buttons are keys. Browsers tell nothing of it, so it is asked.

import { type Binding, toggled, valueAt } from "./midi.ts";
import type { Value, Widget } from "./protocol.ts";

const DEAD = 0.08; // of an axis around its middle, where a stick at rest trembles
const LEAST = 1 / 256; // of an axis, below which it has not moved
const LEARN = 0.5; // of an axis that is moved so far, which is meant

/** As much of the browser's Gamepad as is read. */
export interface Pad {
  id: string;
  axes: readonly number[];
  buttons: readonly { pressed: boolean }[];
}

/** The place of an axis as a share of a way: -1 is 0, the middle 0.5, 1 is 1. */
export function shareOf(axis: number): number {
  const reach = Math.max(0, Math.abs(axis) - DEAD) / (1 - DEAD);
  return 0.5 + 0.5 * Math.sign(axis) * Math.min(1, reach);
}

export class Gamepads {
  private readonly axes = new Map<string, number>(); // shares as they were last
  private readonly pressed = new Set<string>();

  constructor(
    private readonly find: (node: string, input: string) => Widget | undefined,
    private readonly turn: (widget: Widget, value: Value) => void,
  ) {}

  /** Turns what has moved since the last look. */
  look(pads: readonly (Pad | null)[], map: readonly Binding[]): void {
    for (const [place, pad] of pads.entries()) {
      if (!pad) continue;
      const axes = this.movedAxes(keyOf(place, pad), pad);
      const buttons = this.struckButtons(keyOf(place, pad), pad);
      for (const binding of map) {
        if (binding.device && binding.device !== pad.id) continue;
        const widget = this.find(binding.node, binding.input);
        if (!widget) continue;
        const share = axes.get(binding.number);
        let value: Value | null = null;
        if (binding.kind === "axis" && share !== undefined) value = valueAt(widget, binding, share);
        else if (binding.kind === "button" && buttons.has(binding.number)) value = toggled(widget, binding);
        if (value !== null && value !== widget.value) this.turn(widget, value);
      }
    }
  }

  private movedAxes(name: string, pad: Pad): Map<number, number> {
    const found = new Map<number, number>();
    for (const [number, axis] of pad.axes.entries()) {
      const share = shareOf(axis);
      const key = `${name} ${number}`;
      const before = this.axes.get(key);
      // what it is at first is no turn: a pad that lies there must not move what it is bound to
      if (before !== undefined && Math.abs(share - before) < LEAST) continue;
      this.axes.set(key, share);
      if (before !== undefined) found.set(number, share);
    }
    return found;
  }

  private struckButtons(name: string, pad: Pad): Set<number> {
    const found = new Set<number>();
    for (const [number, { pressed }] of pad.buttons.entries()) {
      const key = `${name} ${number}`;
      if (pressed && !this.pressed.has(key)) found.add(number);
      if (pressed) this.pressed.add(key);
      else this.pressed.delete(key);
    }
    return found;
  }
}

/** Finds what a user means who moves something of a gamepad to have it learned. */
export class Learner {
  private readonly rest = new Map<string, { axes: number[]; pressed: boolean[] }>();

  /** @param pads as they are when learning begins: what is held or lies at an end then is not meant */
  constructor(pads: readonly (Pad | null)[]) {
    for (const [place, pad] of pads.entries()) if (pad) this.note(keyOf(place, pad), pad);
  }

  /** Returns what was moved since, null while nothing was. */
  meant(pads: readonly (Pad | null)[]): Pick<Binding, "device" | "kind" | "channel" | "number" | "mode"> | null {
    for (const [place, pad] of pads.entries()) {
      if (!pad) continue;
      const key = keyOf(place, pad);
      const rest = this.rest.get(key);
      const button = pad.buttons.findIndex(({ pressed }, number) => pressed && !rest?.pressed[number]);
      // browsers show a pad once it is touched: then its axes are seen for the first time, and may lie at an end
      const axis = rest ? pad.axes.findIndex((at, number) => Math.abs(at - (rest.axes[number] ?? 0)) >= LEARN) : -1;
      const number = button >= 0 ? button : axis;
      if (number >= 0)
        return { device: pad.id, kind: button >= 0 ? "button" : "axis", channel: 0, number, mode: "absolute" };
      if (!rest) this.note(key, pad);
      else rest.pressed = pad.buttons.map(({ pressed }) => pressed); // one that was let go may be struck
    }
    return null;
  }

  private note(key: string, { axes, buttons }: Pad): void {
    this.rest.set(key, { axes: [...axes], pressed: buttons.map(({ pressed }) => pressed) });
  }
}

/** Two pads of one make have the same id. */
function keyOf(place: number, { id }: Pad): string {
  return `${place} ${id}`;
}
