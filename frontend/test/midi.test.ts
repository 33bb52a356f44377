import assert from "node:assert/strict";
import test from "node:test";
import {
  type Binding,
  fitted,
  Midi,
  missingDevices,
  modeOf,
  rangeOf,
  readMap,
  readMidi,
  stepsOf,
} from "../src/midi.ts";
import type { Value, Widget } from "../src/protocol.ts";

function widget(more: Partial<Widget> = {}): Widget {
  return { node: "4", title: "Knobs", input: "a", kind: "number", value: 1, help: "", min: 0, max: 4, ...more };
}

function desk(...widgets: Widget[]) {
  const turned: [string, Value][] = [];
  const find = (node: string, input: string) => widgets.find((one) => one.node === node && one.input === input);
  const midi = new Midi([], find, (one, value) => {
    one.value = value;
    turned.push([one.input, value]);
  });
  return { midi, turned };
}

const cc = (number: number, value: number, channel = 0) => [0xb0 + channel, number, value];

test("messages are read, and others are none of ours", () => {
  assert.deepEqual(readMidi([0xb3, 7, 100], "A"), { device: "A", kind: "cc", channel: 3, number: 7, value: 100 });
  assert.deepEqual(readMidi([0x90, 60, 1], "A")?.kind, "note");
  for (const other of [[0x90, 60, 0], [0x80, 60, 5], [0xe0, 0, 64], [0xf8], []])
    assert.equal(readMidi(other, "A"), null);
});

test("a controller is learned and goes over the widget's range", () => {
  const one = widget();
  const { midi, turned } = desk(one);
  midi.learn(one);
  for (const value of [10, 11, 12]) midi.take(cc(7, value, 2), "A");
  assert.equal(midi.waits, null);
  assert.deepEqual(turned, []);
  assert.deepEqual(midi.map, [
    { node: "4", input: "a", device: "A", kind: "cc", channel: 2, number: 7, mode: "absolute", low: 0, high: 4 },
  ]);
  for (const value of [0, 127, 127]) midi.take(cc(7, value, 2), "A");
  midi.take(cc(7, 64, 3), "A"); // of another channel, device, controller
  midi.take(cc(7, 64, 2), "B");
  midi.take(cc(8, 64, 2), "A");
  assert.deepEqual(turned, [
    ["a", 0],
    ["a", 4],
  ]);
});

test("what else moves meanwhile is not learned", () => {
  const one = widget();
  const { midi } = desk(one);
  midi.learn(one);
  midi.take(cc(7, 10), "A");
  midi.take(cc(9, 10), "A");
  midi.take(cc(7, 10), "B");
  midi.take(cc(7, 11), "A");
  assert.equal(midi.waits, one);
  midi.take(cc(7, 12), "A");
  assert.equal(midi.map[0]?.number, 7);
  assert.equal(midi.map[0]?.device, "A");
});

test("a pair of controllers has 14 bits", () => {
  const one = widget({ max: 16383 });
  const { midi, turned } = desk(one);
  midi.learn(one);
  midi.take(cc(1, 5), "A");
  midi.take(cc(33, 9), "A");
  assert.equal(midi.map[0]?.mode, "14 bit");
  assert.equal(midi.map[0]?.high, 2); // the range is wide: twice the value of now
  midi.map[0]!.high = 16383;
  midi.take(cc(1, 64), "A");
  midi.take(cc(33, 3), "A");
  midi.take(cc(1, 127), "A");
  midi.take(cc(33, 127), "A");
  const values = turned.map(([, value]) => Math.round(value as number));
  assert.deepEqual(values, [64 * 128, 64 * 128 + 3, 127 * 128, 16383]);
});

test("relative controllers are known by what they send, and move the widget from where it is", () => {
  assert.equal(modeOf([1, 1, 1]), "twos complement");
  assert.equal(modeOf([127, 127, 1]), "twos complement");
  assert.equal(modeOf([65, 65, 63]), "offset");
  assert.equal(modeOf([1, 65, 65]), "sign");
  for (const places of [
    [1, 2, 3],
    [64, 65, 66],
    [5, 5, 60],
    [0, 64, 127],
  ])
    assert.equal(modeOf(places), "absolute");
  assert.deepEqual(
    [1, 3, 127, 64].map((value) => stepsOf("twos complement", value)),
    [1, 3, -1, -64],
  );
  assert.deepEqual(
    [65, 63].map((value) => stepsOf("offset", value)),
    [1, -1],
  );
  assert.deepEqual(
    [2, 66].map((value) => stepsOf("sign", value)),
    [2, -2],
  );
  const one = widget({ value: 2 });
  const { midi, turned } = desk(one);
  midi.learn(one);
  for (let i = 0; i < 3; i++) midi.take(cc(20, 1), "A");
  midi.take(cc(20, 32), "A");
  midi.take(cc(20, 65), "A"); // 63 to the left
  midi.take(cc(20, 63), "A");
  midi.take(cc(20, 63), "A");
  midi.take(cc(20, 63), "A"); // it is at its end
  assert.deepEqual(
    turned.map(([, value]) => value),
    [3, 1.03125, 3, 4],
  );
});

test("a whole number moves by one at least, and stays whole", () => {
  const one = widget({ kind: "whole", value: 3, min: 1, max: 8 });
  const { midi, turned } = desk(one);
  midi.bind(one, { device: "", kind: "cc", channel: 0, number: 1, mode: "offset" });
  midi.take(cc(1, 65), "any");
  midi.map[0]!.mode = "absolute";
  midi.take(cc(1, 100), "any");
  assert.deepEqual(turned, [
    ["a", 4],
    ["a", 7],
  ]);
});

test("notes are switches", () => {
  const toggle = widget({ input: "on", kind: "toggle", value: false });
  const choice = widget({ input: "mode", kind: "choice", value: "b", options: ["a", "b"] });
  const number = widget({ input: "n", value: 0.2 });
  const text = widget({ input: "t", kind: "text", value: "x" });
  const { midi, turned } = desk(toggle, choice, number, text);
  for (const [i, one] of [toggle, choice, number, text].entries()) {
    midi.learn(one);
    midi.take([0x90, 60 + i, 90], "A");
  }
  for (const note of [60, 60, 61, 61, 62, 62, 63]) {
    midi.take([0x90, note, 90], "A");
    midi.take([0x80, note, 0], "A");
  }
  assert.deepEqual(turned, [
    ["on", true],
    ["on", false],
    ["mode", "a"],
    ["mode", "b"],
    ["n", 4],
    ["n", 0],
  ]);
});

test("a controller has one widget and a widget one controller", () => {
  const [a, b] = [widget(), widget({ input: "b" })];
  const { midi } = desk(a, b);
  const given = { device: "A", kind: "cc", channel: 0, mode: "absolute" } as const;
  midi.bind(a, { ...given, number: 1 });
  midi.bind(b, { ...given, number: 1 });
  midi.bind(b, { ...given, number: 2 });
  assert.deepEqual(
    midi.map.map(({ input, number }) => [input, number]),
    [["b", 2]],
  );
  midi.forget("4", "b");
  assert.deepEqual(midi.map, []);
});

test("values fit the widget", () => {
  assert.equal(fitted(widget({ step: 0.25 }), 1.13), 1.25);
  assert.equal(fitted(widget({ step: 0.04, min: 0.04, max: 600 }), 0.05), 0.04);
  assert.equal(fitted(widget({ kind: "whole", min: 1, max: 8 }), 99), 8);
  assert.deepEqual(rangeOf(widget()), { low: 0, high: 4 });
  assert.deepEqual(rangeOf(widget({ min: -1e6, max: 1e6, value: 0 })), { low: 0, high: 1 });
  assert.deepEqual(rangeOf(widget({ min: -1e6, max: 1e6, value: -3 })), { low: -6, high: 6 });
});

test("a map from elsewhere is read as far as it is one", () => {
  const good: Binding = {
    node: "4",
    input: "a",
    device: "A",
    kind: "cc",
    channel: 0,
    number: 7,
    mode: "absolute",
    low: 0,
    high: 1,
  };
  const wrong = [
    null,
    3,
    {},
    { ...good, kind: "sysex" },
    { ...good, low: Number.NaN },
    { ...good, number: 128 },
    { ...good, node: 4 },
  ];
  assert.deepEqual(readMap([good, ...wrong]), [good]);
  assert.deepEqual(readMap("no"), []);
  assert.equal(readMap(new Array(1000).fill(good)).length, 256);
  assert.deepEqual(missingDevices([good, { ...good, device: "B" }, { ...good, device: "" }], ["A"]), ["B"]);
});
