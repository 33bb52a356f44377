import assert from "node:assert/strict";
import test from "node:test";
import { BUCKET, peaksOf, Waveform } from "../src/waveform.ts";

function sound(position: number, values: number[]) {
  const pcm = new Int16Array(2 * BUCKET * values.length);
  for (const [i, value] of values.entries()) pcm[2 * BUCKET * i + 7] = -32768 * value;
  return peaksOf({ epoch: 1, position, hot: 0, slot: 0, at: 0, pcm });
}

test("a peak is the loudest sample of its ten milliseconds", () => {
  assert.deepEqual([...sound(0, [0.5, 0, 1]).peaks], [0.5, 0, 1]);
});

test("a second round marks what sounds otherwise, and nothing else", () => {
  const wave = new Waveform(4 * BUCKET);
  wave.take(sound(0, [0.5, 0.25, 0.5, 0.25]), 100);
  assert.deepEqual([...wave.changed], [0, 0, 0, 0]);
  wave.take(sound(4 * BUCKET, [0.5, 1, 0.51, 0.25]), 200);
  assert.deepEqual([...wave.changed], [0, 200, 0, 0]);
  assert.equal(wave.peaks[1], 1);
});

test("a position goes round", () => {
  const wave = new Waveform(4 * BUCKET);
  assert.equal(wave.place(5 * BUCKET), 0.25);
});
