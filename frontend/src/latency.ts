// The time from turning a knob to its first sample at the ear.

import type { Heard } from "./player.ts";

interface Turn {
  place: string;
  when: number;
  change: number; // 0 until the server has taken it
  cost: string;
}

const MOST = 1000; // turns that wait, and times that are kept

export class Latencies {
  /** Milliseconds of the turns that were heard, by cost. */
  readonly times: Record<string, number[]> = {};
  told: (place: string, milliseconds: number, cost: string) => void = () => {};
  private readonly waiting = new Map<number, Turn>();

  turned(id: number, place: string, when = performance.now()): void {
    this.waiting.set(id, { place, when, change: 0, cost: "" });
    if (this.waiting.size > MOST) this.waiting.delete(this.waiting.keys().next().value!);
  }

  /** Notes which change took a turn in; earlier turns of the same widget went with it. Returns the widget's place. */
  taken(id: number, change: number, cost: string): string | null {
    const turn = this.waiting.get(id);
    if (!turn) return null;
    for (const [other, { place, change }] of this.waiting) {
      if (other < id && place === turn.place && change === 0) this.waiting.delete(other);
    }
    if (change === 0 || cost === "nothing") this.waiting.delete(id);
    turn.change = change;
    turn.cost = cost;
    return turn.place;
  }

  heard({ hot, slot, when }: Heard): void {
    for (const [id, turn] of this.waiting) {
      const reached = turn.cost === "tick" ? hot : slot;
      if (turn.change === 0 || reached < turn.change) continue;
      this.waiting.delete(id);
      const times = this.times[turn.cost] ?? [];
      this.times[turn.cost] = times;
      times.push(when - turn.when);
      if (times.length > MOST) times.shift();
      this.told(turn.place, when - turn.when, turn.cost);
    }
  }

  forget(): void {
    this.waiting.clear();
  }
}
