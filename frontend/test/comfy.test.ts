import assert from "node:assert/strict";
import test from "node:test";
import { choose, fromPack, type Graph, type Node, setValueAt, valueAt } from "../src/comfy.ts";
import { costsText } from "../src/link.ts";
import { wiringOf } from "../src/wiring.ts";

/** A node with widgets, each with a socket beside it, in a graph. */
function node(graph: Graph, id: number, type: string, values: Record<string, unknown>, more: Partial<Node> = {}): Node {
  const made = {
    id,
    type,
    graph,
    inputs: Object.keys(values).map((name) => ({ name, type: "FLOAT", widget: { name } })),
    widgets: Object.entries(values).map(([name, value]) => ({ name, value, type: "number", options: {} })),
    isInputConnected: (slot: number) => made.link(slot) !== null,
    // as the editor does: a subgraph's node looks inside, and fails where there is nothing
    getInputLink: (slot: number) => {
      if (made.subgraph) throw new TypeError("no such output");
      return made.link(slot);
    },
    link: (slot: number) =>
      [...graph.links.values()].find((wire) => wire.target_id === id && wire.target_slot === slot) ?? null,
    getWidgetFromSlot: (slot: { name: string }) => made.widgets.find((widget) => widget.name === slot.name),
    ...more,
  };
  graph.nodes.push(made as unknown as Node);
  return made as unknown as Node;
}

function graph(): Graph {
  const nodes: Node[] = [];
  return {
    id: "g",
    nodes,
    links: new Map(),
    getNodeById: (id) => nodes.find((one) => one.id === id),
    setDirtyCanvas: () => {},
  };
}

function wire(to: Graph, from: [number, number], target: [number, number]): void {
  const [[origin_id, origin_slot], [target_id, target_slot]] = [from, target];
  to.links.set(to.links.size, { origin_id, origin_slot, target_id, target_slot });
}

test("a widget's value, and that of a primitive linked to it; of another link there is none", () => {
  const root = graph();
  const knobs = node(root, 1, "OstinatoKnobs", { a: 1, b: 2, c: 3 });
  node(root, 2, "PrimitiveNode", { value: 7 });
  node(root, 3, "OstinatoCurveRamp", { start: 0 });
  wire(root, [2, 0], [1, 1]);
  wire(root, [3, 0], [1, 2]);
  assert.deepEqual(
    ["a", "b", "c", "d"].map((name) => valueAt([knobs], name)),
    [1, 7, undefined, undefined],
  );
});

test("inside a subgraph, its node's own widgets count, and what those are linked to, however deep", () => {
  const [root, middle, inner] = [graph(), graph(), graph()];
  const outer = node(root, 1, "subgraph", { x: 10, y: 20 }, { subgraph: middle });
  const host = node(middle, 2, "subgraph", { p: 1, q: 2, r: 3 }, { subgraph: inner });
  const knobs = node(inner, 3, "OstinatoKnobs", { a: 0, b: 0, c: 0, d: 4 });
  for (const slot of [0, 1, 2]) wire(inner, [-10, slot], [3, slot]);
  wire(middle, [-10, 1], [2, 1]);
  node(root, 9, "PrimitiveNode", { value: 30 });
  wire(root, [9, 0], [1, 0]);
  wire(middle, [-10, 0], [2, 2]);
  assert.deepEqual(
    ["a", "b", "c", "d"].map((name) => valueAt([outer, host, knobs], name)),
    [1, 20, 30, 4],
  );
});

test("a value is given where a run would take it from, and the editor is told", () => {
  const [root, inner] = [graph(), graph()];
  const outer = node(root, 1, "subgraph", { x: 10 }, { subgraph: inner });
  const knobs = node(inner, 3, "OstinatoKnobs", { a: 0, b: 0 });
  wire(inner, [-10, 0], [3, 0]);
  const told: unknown[] = [];
  outer.widgets![0]!.callback = (value) => told.push(value);
  setValueAt([outer, knobs], "a", 5);
  setValueAt([outer, knobs], "b", 6);
  setValueAt([outer, knobs], "none", 7);
  assert.deepEqual([outer.widgets![0]!.value, ...knobs.widgets!.map(({ value }) => value), told], [5, 0, 6, [5]]);
});

test("what comes from the pack is found behind other nodes, and a circle ends", () => {
  const root = graph();
  const save = node(root, 1, "SaveAudio", { audio: 0 });
  node(root, 2, "Reroute", { in: 0 });
  wire(root, [2, 0], [1, 0]);
  assert.equal(fromPack(save), false);
  wire(root, [1, 0], [2, 0]);
  assert.equal(fromPack(save), false);
  root.links.clear();
  wire(root, [2, 0], [1, 0]);
  node(root, 3, "OstinatoStreamDecode", {});
  wire(root, [3, 0], [2, 0]);
  assert.equal(fromPack(save), true);
});

test("a choice may be one that the list did not have", () => {
  const capture = node(graph(), 1, "OstinatoLiveCapture", { capture: "none found" });
  capture.widgets![0]!.options.values = ["none found"];
  choose(capture, "capture", "capture_00001_");
  assert.equal(capture.widgets![0]!.value, "capture_00001_");
  assert.deepEqual(capture.widgets![0]!.options.values, ["capture_00001_", "none found"]);
});

test("another link, node or mode is another wiring, and a widget's value is none", () => {
  const [root, inner] = [graph(), graph()];
  const live = node(root, 1, "OstinatoLiveSession", { knobs: 0, condition: 0 });
  const knobs = node(root, 2, "OstinatoKnobs", { a: 1 });
  const outer = node(root, 3, "subgraph", { x: 0 }, { subgraph: inner });
  const prompt = node(inner, 4, "OstinatoEncodePrompt", { bpm: 90 });
  const seen: string[] = [];
  const look = (act: () => void) => {
    act();
    seen.push(wiringOf([live]));
  };
  look(() => wire(root, [2, 0], [1, 0]));
  look(() => wire(root, [3, 0], [1, 1]));
  look(() => wire(inner, [-10, 0], [4, 0]));
  look(() => {
    knobs.mode = 4;
  });
  look(() => {
    prompt.mode = 4;
  });
  look(() => node(root, 5, "OstinatoCurveRamp", { start: 0 }) && wire(root, [5, 0], [2, 0]));
  look(() => wire(root, [5, 0], [3, 0]));
  assert.equal(new Set(seen).size, seen.length);
  knobs.widgets![0]!.value = 9;
  node(root, 6, "SaveAudio", {});
  assert.equal(wiringOf([live]), seen.at(-1));
  assert.ok(wiringOf([outer, prompt]).includes("3:4"));
});

test("what turning takes is said of most widgets first", () => {
  assert.equal(costsText([]), "");
  const widgets = [
    { input: "tags", cost: "slot" },
    { input: "seconds", cost: "ring" },
    { input: "lyrics", cost: "slot" },
  ] as const;
  assert.equal(costsText([...widgets]), "live: next generation\nseconds: a new ring; the old music goes on");
});
