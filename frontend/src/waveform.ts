// What was heard, as peaks over one round of the loop, and where it has just changed.

import type { Block } from "./protocol.ts";

export const BUCKET = 480; // samples of a peak, 10 ms
const CHANGE = 0.03; // of full scale: a smaller difference is the level's, not the music's

/** The peaks of a block of sound, from its first whole bucket on. */
export interface Peaks {
  epoch: number;
  position: number;
  peaks: Float32Array;
}

export function peaksOf({ epoch, position, pcm }: Block): Peaks {
  const count = Math.floor(pcm.length / 2 / BUCKET);
  const peaks = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    let peak = 0;
    for (let at = 2 * BUCKET * i; at < 2 * BUCKET * (i + 1); at++) peak = Math.max(peak, Math.abs(pcm[at]!));
    peaks[i] = peak / 32768;
  }
  return { epoch, position, peaks };
}

export class Waveform {
  readonly peaks: Float32Array;
  /** When each bucket came to sound otherwise than a round before; 0 where it never did. */
  readonly changed: Float64Array;

  /** @param samples of one round */
  constructor(readonly samples: number) {
    const count = Math.max(1, Math.round(samples / BUCKET));
    this.peaks = new Float32Array(count).fill(-1); // -1: nothing was heard there yet
    this.changed = new Float64Array(count);
  }

  take({ position, peaks }: Peaks, now: number): void {
    const first = Math.round(position / BUCKET);
    for (const [i, peak] of peaks.entries()) {
      const place = (first + i) % this.peaks.length;
      const before = this.peaks[place]!;
      if (before >= 0 && Math.abs(before - peak) > CHANGE) this.changed[place] = now;
      this.peaks[place] = peak;
    }
  }

  /** Where a position lies in the round, from 0 to 1. */
  place(position: number): number {
    return (position % this.samples) / this.samples;
  }
}
