import assert from "node:assert/strict";
import test from "node:test";
import { Latencies } from "../src/latency.ts";
import { type Block, HEADER, readBlock } from "../src/protocol.ts";
import { Ring } from "../src/ring.ts";

function block(position: number, frames: number, value: number, more: Partial<Block> = {}): Block {
  const pcm = new Int16Array(2 * frames).fill(value);
  return { epoch: 1, position, hot: 0, slot: 0, at: 0, pcm, ...more };
}

function play(ring: Ring, count = 128) {
  const left = new Float32Array(count);
  const right = new Float32Array(count);
  const heard = ring.play(left, right);
  return { left, right, heard };
}

function ready(frames = 4800): Ring {
  const ring = new Ring();
  ring.playing = true;
  ring.take(block(0, frames, 16384));
  return ring;
}

test("it waits for its lead, then plays what it was given", () => {
  const ring = ready(1000);
  assert.equal(
    play(ring).left.every((x) => x === 0),
    true,
  );
  ring.take(block(1000, 4000, 16384));
  play(ring);
  play(ring);
  const { left } = play(ring);
  assert.equal(
    left.every((x) => x === 0.5),
    true,
  );
  assert.equal(ring.read, 384);
});

test("it begins and ends without a click", () => {
  const ring = ready();
  const steps: number[] = [];
  let last = 0;
  for (let i = 0; i < 60; i++) {
    for (const x of play(ring).left) {
      steps.push(Math.abs(x - last));
      last = x;
    }
  }
  assert.equal(last, 0);
  assert.ok(Math.max(...steps) < 0.005, `${Math.max(...steps)}`);
});

test("an underrun is counted and the lead grows, and no further than its limit", () => {
  const ring = ready(2500);
  const lead = ring.lead;
  for (let i = 0; i < 40; i++) play(ring);
  assert.equal(ring.underruns, 1);
  assert.equal(ring.lead, lead * 1.25);
  for (let n = 0; n < 40; n++) {
    ring.take(block(ring.end, 30000, 1));
    for (let i = 0; i < 300; i++) play(ring);
  }
  assert.ok(ring.underruns > 10 && ring.lead === 24000);
});

/** Plays some seconds with `spare` samples ahead at the least, after an underrun that made the lead grow. */
function calm(seconds: number, spare: number): Ring {
  const ring = ready(2500);
  for (let i = 0; i < 40; i++) play(ring);
  for (let i = 0; i < 375 * seconds; i++) {
    ring.take(block(ring.end, Math.max(1, ring.read + 128 + spare - ring.end, ring.moving ? 0 : ring.lead), 1));
    play(ring);
  }
  assert.equal(ring.underruns, 1);
  return ring;
}

test("the lead falls by half of what nobody needed in five seconds, and no lower than its first", () => {
  assert.equal(calm(4, 400).lead, 3000);
  assert.equal(calm(6, 400).lead, 2800);
  assert.equal(calm(11, 400).lead, 2600);
  assert.equal(calm(6, 4000).lead, 2400);
});

test("a pause is no underrun", () => {
  const ring = ready();
  play(ring);
  ring.playing = false;
  play(ring);
  assert.equal(ring.underruns, 0);
  assert.equal(ring.read, 128);
});

test("a block takes the place of what lies there, but not of what was heard", () => {
  const ring = ready();
  for (let i = 0; i < 10; i++) play(ring);
  ring.take(block(1280, 720, -16384));
  assert.deepEqual([ring.fresh, ring.end], [2000, 4800]);
  assert.equal(play(ring).left[0], -0.5);
  ring.take(block(0, 128, 99));
  assert.deepEqual([ring.fresh, ring.end], [2000, 4800]);
});

test("older sound behind a new block plays, without a click, until the next block is there", () => {
  for (const late of [0, 128, 1024]) {
    const ring = ready();
    ring.take(block(0, 1280, -16384));
    const heard: number[] = [];
    const listen = (samples: number) => {
      for (let i = 0; i < samples / 128; i++) heard.push(...play(ring).left);
    };
    listen(1280 + late);
    ring.take(block(1280, 2000, -16384));
    listen(768);
    const steps = heard.slice(241).map((x, i) => Math.abs(x - heard[240 + i]!));
    assert.ok(Math.max(...steps) < 0.01, `${late}: ${Math.max(...steps)}`);
    assert.equal(Math.max(...heard) === 0.5, late > 240);
    assert.equal(heard.at(-1), -0.5);
    assert.equal(ring.underruns, 0);
  }
});

test("a block behind a lost one is faded into", () => {
  const ring = ready();
  ring.take(block(0, 1280, 16384));
  ring.take(block(1920, 1280, -16384));
  const heard: number[] = [];
  for (let i = 0; i < 20; i++) heard.push(...play(ring).left);
  const steps = heard.slice(1).map((x, i) => Math.abs(x - heard[i]!));
  assert.ok(Math.max(...steps) < 0.01);
  assert.equal(heard.at(-1), -0.5);
});

test("a block that comes late is faded into", () => {
  const ring = ready();
  for (let i = 0; i < 10; i++) play(ring);
  ring.take(block(1000, 2000, -16384));
  const { left } = play(ring);
  const steps = left.slice(1).map((x, i) => Math.abs(x - left[i]!));
  assert.equal(left[0], 0.5);
  assert.ok(Math.max(...steps) < 0.005);
  for (let i = 0; i < 2; i++) play(ring);
  assert.equal(play(ring).left[0], -0.5);
});

test("an older epoch is passed over, a newer one begins anew", () => {
  const ring = ready();
  play(ring);
  ring.take(block(4800, 100, 1, { epoch: 0 }));
  assert.equal(ring.end, 4800);
  ring.take(block(96000, 4800, 8192, { epoch: 2 }));
  assert.deepEqual([ring.epoch, ring.read, ring.end], [2, 96000, 100800]);
});

test("a gap is jumped over", () => {
  const ring = ready();
  play(ring);
  ring.take(block(9600, 4800, 1));
  assert.equal(ring.read, 9600);
});

test("a change is told with the sample that has it first", () => {
  const ring = ready();
  ring.take(block(4800, 4800, 1, { hot: 7, at: 5000 }));
  const heard: number[] = [];
  for (let i = 0; i < 60; i++) {
    const begin = ring.read;
    for (const mark of play(ring).heard) {
      heard.push(mark.hot);
      assert.ok(begin <= mark.at && mark.at < begin + 128);
    }
  }
  assert.deepEqual(heard, [7]);
});

test("a change that was not heard before a new epoch is told in it", () => {
  const ring = ready();
  ring.take(block(4800, 4800, 1, { hot: 7, at: 5000 }));
  ring.take(block(0, 4800, 1, { epoch: 2, hot: 7, at: 0 }));
  assert.equal(play(ring).heard[0]?.hot, 7);
});

test("a frame is read as the server lays it out", () => {
  const data = new ArrayBuffer(HEADER + 8);
  const view = new DataView(data);
  view.setUint8(0, 1);
  view.setUint32(4, 3, true);
  for (const [i, n] of [2 ** 40, 5, 6, 2 ** 40 + 256].entries()) view.setBigUint64(8 + 8 * i, BigInt(n), true);
  view.setInt16(HEADER + 2, -5, true);
  const { pcm, ...rest } = readBlock(data)!;
  assert.deepEqual(rest, { epoch: 3, position: 2 ** 40, hot: 5, slot: 6, at: 2 ** 40 + 256 });
  assert.deepEqual([...pcm], [0, -5, 0, 0]);
  assert.equal(readBlock(data.slice(0, 41)), null);
  assert.equal(readBlock(new ArrayBuffer(4)), null);
  view.setUint8(0, 2);
  assert.equal(readBlock(data), null);
});

test("a turn is timed from the hand to the ear, also where a later one took it in", () => {
  const latencies = new Latencies();
  latencies.turned(1, "4 a", 1000);
  latencies.turned(2, "4 a", 1010);
  latencies.turned(3, "4 b", 1020);
  assert.equal(latencies.taken(2, 50, "tick"), "4 a");
  assert.equal(latencies.taken(3, 50, "slot"), "4 b");
  assert.equal(latencies.taken(1, 50, "tick"), null);
  const mark = { at: 0, hot: 50, slot: 49 };
  latencies.heard({ ...mark, when: 1300 });
  latencies.heard({ ...mark, slot: 50, when: 1500 });
  assert.deepEqual(latencies.times, { tick: [290], slot: [480] });
});

test("a turn that was refused is not waited for", () => {
  const latencies = new Latencies();
  latencies.turned(1, "4 a", 0);
  latencies.taken(1, 0, "nothing");
  latencies.heard({ at: 0, hot: 9, slot: 9, when: 5 });
  assert.deepEqual(latencies.times, {});
});
