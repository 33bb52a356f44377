import assert from "node:assert/strict";
import test from "node:test";
import { added, type Drawn, evaluator, moved, readDrawn, removed } from "../src/shape.ts";

const LINE: Drawn = {
  points: [
    [0, 0],
    [0.5, 1],
    [1, 0],
  ],
  interpolation: "linear",
};

test("a widget without a curve is a straight line", () => {
  for (const value of [null, "", {}, { points: [] }, { points: [[0, Number.NaN]] }, { points: "no" }]) {
    assert.deepEqual(readDrawn(value).points, [
      [0, 0],
      [1, 1],
    ]);
  }
  const value = { points: [[0.2, 0.3]], interpolation: "linear" };
  const read = readDrawn(value);
  assert.deepEqual(read, value);
  assert.notEqual(read.points[0], value.points[0], "the widget's own points must not be changed");
});

test("a point stays between its neighbours and inside the field", () => {
  assert.deepEqual(moved(LINE, 1, [2, -1]).points[1], [1, 0]);
  assert.deepEqual(moved(LINE, 2, [0.2, 0.4]).points[2], [0.5, 0.4]);
  assert.deepEqual(moved(LINE, 0, [-1, 2]).points[0], [0, 1]);
  assert.deepEqual(LINE.points[0], [0, 0]);
});

test("a point is added where it lies, and two stay", () => {
  const [more, index] = added(LINE, [0.75, 0.1]);
  assert.equal(index, 2);
  assert.deepEqual(more.points[2], [0.75, 0.1]);
  assert.equal(added(LINE, [1, 0.5])[1], 3);
  assert.equal(removed(more, 2).points.length, 3);
  assert.equal(removed(removed(LINE, 1), 0).points.length, 2);
});

test("lines and ends", () => {
  const at = evaluator({
    points: [
      [0.75, 1],
      [0.25, 0],
    ],
    interpolation: "linear",
  });
  assert.deepEqual([at(0), at(0.5), at(1)], [0, 0.5, 1]);
  assert.equal(evaluator({ points: [[0.5, 0.3]], interpolation: "monotone_cubic" })(0.9), 0.3);
});

test("the cubic is the server's", () => {
  // engine_runtime/controls/points.py, through([[0, 0], [0.2, 0.9], [0.6, 1], [1, 0]]), at these places
  const at = evaluator({
    points: [
      [0, 0],
      [0.2, 0.9],
      [0.6, 1],
      [1, 0],
    ],
    interpolation: "monotone_cubic",
  });
  const known = [
    [0.05, 0.2601562],
    [0.15, 0.7804688],
    [0.3, 0.9578125],
    [0.5, 0.9984375],
    [0.7, 0.890625],
    [0.9, 0.296875],
  ];
  for (const [x, y] of known) assert.ok(Math.abs(at(x) - y) < 1e-6, `${x}: ${at(x)} and not ${y}`);
});
