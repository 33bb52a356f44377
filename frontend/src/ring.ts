// The sound that is here and not heard yet: a ring of samples by their position. It runs in the worklet, or in the
// fallback player, and allocates nothing while it plays.

import type { At, Block } from "./protocol.ts";

const SIZE = 1 << 18; // samples, 5.4 s; a server is never more than 2 s ahead
const FIRST_LEAD = 2400; // samples, 50 ms
const MOST_LEAD = 24_000;
const GROWTH = 1.25; // of the lead, after an underrun
const CALM = 5 * 48_000; // samples without one, after which the lead falls by half of what was never needed
const FADE = 240; // samples, 5 ms, where the sound ends or begins, or is replaced, without what is before it

/** Changes that are first heard at a position. */
export interface Mark {
  at: number;
  hot: number;
  slot: number;
}

export class Ring {
  epoch = 0;
  read = 0; // position that sounds next
  end = 0; // position up to which there is sound
  fresh = 0; // end of the newest block; what lies behind it was made before, and plays where the next block is late
  lead = FIRST_LEAD;
  underruns = 0;
  moving = false;
  playing = false;
  private readonly left = new Float32Array(SIZE);
  private readonly right = new Float32Array(SIZE);
  private marks: Mark[] = [];
  private last: Mark = { at: 0, hot: 0, slot: 0 };
  private rise = FADE; // samples since the sound began; FADE is long ago
  private fall = 0; // samples of the fade-out that are still to come
  private calm = 0; // samples since the last underrun, or since the lead fell
  private spare = SIZE; // the fewest samples that were ahead in that time
  private lastLeft = 0;
  private lastRight = 0;

  /** Forgets all sound: the next is at this position of this epoch. */
  flush(epoch: number, position: number): void {
    this.stopMoving();
    this.epoch = epoch;
    this.read = this.end = this.fresh = position;
    this.marks = [];
    this.last = { at: 0, hot: 0, slot: 0 }; // changes that were not heard yet are told again
  }

  /**
   * Takes a block in place of what is at its positions; one of an older epoch, or already heard, is passed over. Older
   * sound behind it stays: after a change the listener hears the old music for a moment longer, and no gap.
   */
  take(block: Block): void {
    if (block.epoch < this.epoch) return;
    if (block.epoch > this.epoch) this.flush(block.epoch, block.position);
    const frames = block.pcm.length / 2;
    const stop = block.position + frames;
    if (stop <= this.read || stop > this.read + SIZE) return;
    if (block.position > this.end) {
      // what is between was dropped on the way
      this.stopMoving();
      this.read = block.position;
    }
    const first = Math.max(0, this.read - block.position);
    // a block that comes late begins in its middle, one behind a lost block in older sound: that goes over into it
    const fade = first > 0 || block.position > this.fresh ? Math.min(FADE, this.end - this.read) : 0;
    for (let i = first; i < frames; i++) {
      const place = (block.position + i) & (SIZE - 1);
      const share = i - first < fade ? (i - first) / fade : 1;
      this.left[place] = this.left[place]! * (1 - share) + (block.pcm[2 * i]! / 32768) * share;
      this.right[place] = this.right[place]! * (1 - share) + (block.pcm[2 * i + 1]! / 32768) * share;
    }
    this.fresh = stop;
    if (this.end > stop) this.joinOlder();
    this.end = Math.max(this.end, stop);
    if (block.hot !== this.last.hot || block.slot !== this.last.slot) {
      this.last = { at: block.at, hot: block.hot, slot: block.slot };
      this.marks.push(this.last);
    }
  }

  /** Writes the next samples; returns the changes that are heard first among them. */
  play(left: Float32Array, right: Float32Array): Mark[] {
    const count = left.length;
    if (this.playing && !this.moving && this.end - this.read >= Math.max(this.lead, count)) {
      this.moving = true;
      this.rise = 0;
    }
    if (this.moving && (!this.playing || this.end - this.read < count)) {
      if (this.playing) {
        this.underruns++;
        this.lead = Math.min(MOST_LEAD, Math.round(this.lead * GROWTH));
        this.calm = 0;
        this.spare = SIZE;
      }
      this.stopMoving();
    }
    if (!this.moving) {
      this.fadeOut(left, right);
      return [];
    }
    for (let i = 0; i < count; i++) {
      const place = (this.read + i) & (SIZE - 1);
      const gain = this.rise < FADE ? this.rise++ / FADE : 1;
      left[i] = this.left[place]! * gain;
      right[i] = this.right[place]! * gain;
    }
    this.lastLeft = left[count - 1]!;
    this.lastRight = right[count - 1]!;
    this.read += count;
    this.calm += count;
    this.spare = Math.min(this.spare, this.end - this.read);
    if (this.calm >= CALM) {
      this.lead = Math.max(FIRST_LEAD, this.lead - (this.spare >> 1));
      this.calm = 0;
      this.spare = SIZE;
    }
    if (!this.marks.length || this.marks[0]!.at >= this.read) return [];
    const heard = this.marks.filter((mark) => mark.at < this.read);
    this.marks = this.marks.slice(heard.length);
    return heard;
  }

  at(): At {
    return { epoch: this.epoch, position: this.read, lead: this.lead, moving: this.moving, underruns: this.underruns };
  }

  /** Takes the step away with which the older sound behind the newest block would begin. */
  private joinOlder(): void {
    for (const samples of [this.left, this.right]) {
      const step = samples[(this.fresh - 1) & (SIZE - 1)]! - samples[this.fresh & (SIZE - 1)]!;
      const count = Math.min(FADE, this.end - this.fresh);
      for (let i = 0; i < count; i++) samples[(this.fresh + i) & (SIZE - 1)]! += step * (1 - i / FADE);
    }
  }

  private stopMoving(): void {
    if (this.moving) this.fall = FADE;
    this.moving = false;
  }

  /** Lets the last sample die away, so that the sound ends without a click. */
  private fadeOut(left: Float32Array, right: Float32Array): void {
    for (let i = 0; i < left.length; i++) {
      const gain = this.fall > 0 ? this.fall-- / FADE : 0;
      left[i] = this.lastLeft * gain;
      right[i] = this.lastRight * gain;
    }
  }
}
