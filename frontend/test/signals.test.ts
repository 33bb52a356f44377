import assert from "node:assert/strict";
import test from "node:test";
import { Gamepads, Learner, type Pad, shareOf } from "../src/gamepad.ts";
import type { Binding } from "../src/midi.ts";
import type { Value, Widget } from "../src/protocol.ts";
import { Queue, readWhen } from "../src/quantise.ts";

function pad(axes: number[], pressed: boolean[] = [], id = "P"): Pad {
  return { id, axes, buttons: pressed.map((one) => ({ pressed: one })) };
}

test("the middle of a stick is quiet and its ends are the ends", () => {
  assert.deepEqual([-1, -0.05, 0, 0.05, 1].map(shareOf), [0, 0.5, 0.5, 0.5, 1]);
});

test("axes are places and buttons are switches", () => {
  const knob: Widget = {
    node: "4",
    title: "",
    input: "a",
    kind: "number",
    value: 1,
    help: "",
    cost: "tick",
    min: 0,
    max: 4,
  };
  const toggle: Widget = { ...knob, input: "b", kind: "toggle", value: false };
  const turned: Value[] = [];
  const pads = new Gamepads(
    (_, input) => (input === "a" ? knob : toggle),
    (one, value) => {
      one.value = value;
      turned.push(value);
    },
  );
  const base = { node: "4", device: "P", channel: 0, mode: "absolute", low: 0, high: 4 } as const;
  const map: Binding[] = [
    { ...base, input: "a", kind: "axis", number: 1 },
    { ...base, input: "b", kind: "button", number: 0 },
  ];
  pads.look([null, pad([0, 0.7], [false])], map); // what lies there turns nothing
  assert.deepEqual(turned, []);
  pads.look([null, pad([0, 1], [true])], map);
  pads.look([null, pad([0.9, 1], [true])], map);
  pads.look([null, pad([0, -1], [false])], map);
  pads.look([null, pad([0, -1], [true])], map);
  pads.look([null, pad([0, 1], [true], "another")], map);
  assert.deepEqual(turned, [4, true, 0, false]);
  const twin = pad([0, 0], [false]); // of the same make, at rest beside it
  pads.look([twin, pad([0, -1], [true])], map);
  pads.look([twin, pad([0, -1], [true])], map);
  assert.equal(turned.length, 4);
});

test("what is moved to be learned", () => {
  const kind = (learner: Learner, one: Pad) => learner.meant([null, one])?.kind ?? null;
  const stick = new Learner([null, pad([0.2, 0.1])]);
  assert.equal(kind(stick, pad([0.2, 0.1])), null);
  assert.deepEqual(stick.meant([null, pad([0.1, -0.9])]), {
    device: "P",
    kind: "axis",
    channel: 0,
    number: 1,
    mode: "absolute",
  });
  // an axis that rests at an end, as triggers do, and a button that is held
  const resting = new Learner([null, pad([0, -1], [true, false])]);
  assert.equal(kind(resting, pad([0, -1], [true, false])), null);
  assert.equal(resting.meant([null, pad([0, -1], [true, true])])?.number, 1);
  assert.equal(resting.meant([null, pad([0, 0.2], [true, false])])?.number, 1);
  assert.equal(kind(resting, pad([0, -1], [false, false])), null);
  assert.equal(kind(resting, pad([0, -1], [true, false])), "button");
  // a pad that the browser shows only now: a button is meant, an axis once it has moved
  assert.equal(kind(new Learner([]), pad([0, -1], [true])), "button");
  const late = new Learner([]);
  assert.equal(kind(late, pad([0, -1])), null);
  assert.equal(kind(late, pad([0, 1])), "axis");
});

test("the queue shows what waits, the last value of a widget alone", () => {
  const queue = new Queue();
  assert.equal(queue.text(0), "");
  queue.queued({ id: 1, place: "4 velocity_scale", position: 96_000 });
  queue.queued({ id: 2, place: "4 sde", position: 48_000 });
  queue.queued({ id: 3, place: "4 velocity_scale", position: 144_000 });
  assert.equal(queue.text(24_000), "sde in 0.5 s, velocity scale in 2.5 s");
  assert.equal(queue.taken(1), null);
  assert.equal(queue.taken(3)?.place, "4 velocity_scale");
  queue.turned("4 sde");
  assert.deepEqual(queue.list, []);
  assert.deepEqual(["bar", "later", undefined].map(readWhen), ["bar", "now", "now"]);
});
