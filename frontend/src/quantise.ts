// Changes that wait for a beat: the setting, and what the server has queued.

import { RATE } from "./protocol.ts";
import { worded } from "./words.ts";

export type When = "now" | "beat" | "bar";

export const WHEN: readonly When[] = ["now", "beat", "bar"];

export const WHEN_TEXT: Record<When, () => string> = {
  now: () => worded("at once"),
  beat: () => worded("on the beat"),
  bar: () => worded("on the bar"),
};

export function readWhen(given: unknown): When {
  return WHEN.find((when) => when === given) ?? "now";
}

/** A turn that waits: its id, "node input", and the position at which it is heard. */
export interface Waiting {
  id: number;
  place: string;
  position: number; // samples
}

export class Queue {
  private readonly waiting = new Map<string, Waiting>(); // by place: the last value of a widget counts

  queued(one: Waiting): void {
    this.waiting.set(one.place, one);
  }

  /** The turn was taken in; returns it where it had waited. */
  taken(id: number): Waiting | null {
    for (const one of this.waiting.values()) {
      if (one.id !== id) continue;
      this.waiting.delete(one.place);
      return one;
    }
    return null;
  }

  /** A widget was turned again: what waits of it is passed over. */
  turned(place: string): void {
    this.waiting.delete(place);
  }

  forget(): void {
    this.waiting.clear();
  }

  /** What waits, the next to be heard first. */
  get list(): Waiting[] {
    return [...this.waiting.values()].sort((a, b) => a.position - b.position);
  }

  /** Says what waits and for how long, heard from `position`; empty where nothing does. */
  text(position: number): string {
    return this.list
      .map(({ place, position: at }) =>
        worded("%1 in %2 s", nameOf(place), Math.max(0, (at - position) / RATE).toFixed(1)),
      )
      .join(", ");
  }
}

/** The widget's name of a "node input". */
export function nameOf(place: string): string {
  return place.slice(place.indexOf(" ") + 1).replaceAll("_", " ");
}
