// Lines under a node that stay after the job: what the node has to say, and what turning its widgets took.

import { addElement, type Comfy, grow, type Node, type Output, ours } from "./comfy.ts";

const LINE = 18; // pixels
const MOST = 6; // lines without a scroll bar
const WIDGETS = 3; // of a node, whose last turns stay

const boxes = new WeakMap<Node, Box>();
const kept = new Map<string, Lines>(); // by workflow and node, for the next time that it is opened

type Lines = Map<string, { text: string; wrong: boolean }>;

class Box {
  private readonly root = document.createElement("div");
  private height = LINE;

  constructor(private readonly node: Node) {
    this.root.className = "ostinato ostinato-notes";
    this.root.setAttribute("role", "status");
    this.root.tabIndex = 0; // scrolls by keys
    addElement(node, "ostinato_notes", this.root, () => this.height);
  }

  show(lines: Lines): void {
    this.root.replaceChildren(
      ...[...lines.values()].map(({ text, wrong }) => {
        const line = Object.assign(document.createElement("div"), { textContent: text });
        line.classList.toggle("ostinato-wrong", wrong);
        return line;
      }),
    );
    const count = [...lines.values()].reduce((sum, { text }) => sum + text.split("\n").length, 0);
    const height = LINE * Math.min(MOST, count) + 8;
    if (height === this.height) return;
    this.height = height;
    this.root.style.minHeight = `${height}px`;
    grow(this.node);
  }
}

/** Writes a line under a node, in place of the one with that key. */
export function note(comfy: Comfy, node: Node, key: string, text: string, wrong = false): void {
  const place = `${comfy.graph.id} ${comfy.idOf(node)}`;
  const lines: Lines = kept.get(place) ?? new Map();
  kept.set(place, lines);
  lines.set(key, { text, wrong });
  show(node, lines);
}

/** Says what turning a widget took; the turns of few widgets stay, those turned last. */
export function noteTurn(comfy: Comfy, node: Node, input: string, text: string, wrong: boolean): void {
  const key = `turn ${input}`;
  const lines = kept.get(`${comfy.graph.id} ${comfy.idOf(node)}`);
  const turns = [...(lines?.keys() ?? [])].filter((other) => other.startsWith("turn ") && other !== key);
  lines?.delete(key); // the latest comes last
  if (turns.length >= WIDGETS) lines?.delete(turns[0]!);
  note(comfy, node, key, `${input}: ${text}`, wrong);
}

/** Says what turning a node's widgets takes, before anything else. */
export function noteCosts(comfy: Comfy, node: Node, text: string): void {
  const place = `${comfy.graph.id} ${comfy.idOf(node)}`;
  const lines: Lines = kept.get(place) ?? new Map();
  kept.set(place, new Map([["costs", { text, wrong: false }], ...[...lines].filter(([key]) => key !== "costs")]));
  show(node, kept.get(place)!);
}

/** Writes the lines that a node had when its workflow was left. */
export function restore(comfy: Comfy, node: Node): void {
  const lines = kept.get(`${comfy.graph.id} ${comfy.idOf(node)}`);
  if (lines) show(node, lines);
}

function show(node: Node, lines: Lines): void {
  const box = boxes.get(node) ?? new Box(node);
  boxes.set(node, box);
  box.show(lines);
}

/** Shows the text and the files that a run of a node made. */
export function noteOutput(comfy: Comfy, node: Node, output: Output): void {
  if (!ours(node)) return;
  const { text, files } = output;
  if (text?.length) note(comfy, node, "text", text.join("\n"));
  if (files?.length) note(comfy, node, "text", files.map((file) => String(file).split(/[\\/]/).at(-1)).join("\n"));
}
