// Lines under a node that stay after the job: what the node has to say, and what turning its widgets took.

import { addElement, type Comfy, grow, type Node, type Output, ours } from "./comfy.ts";

const LINE = 18; // pixels
const MOST = 8; // lines without a scroll bar

const boxes = new WeakMap<Node, Box>();
const kept = new Map<string, Map<string, Line>>(); // by workflow and node, for the next time that it is opened

interface Line {
  text: string;
  wrong: boolean;
}

class Box {
  private readonly root = document.createElement("div");
  private readonly lines = new Map<string, HTMLElement>();

  constructor(private readonly node: Node) {
    this.root.className = "ostinato ostinato-notes";
    this.root.setAttribute("role", "status");
    this.root.tabIndex = 0; // scrolls by keys
    addElement(node, "ostinato_notes", this.root, () => this.height);
  }

  set(key: string, { text, wrong }: Line): void {
    let line = this.lines.get(key);
    if (!line) {
      line = document.createElement("div");
      this.lines.set(key, line);
      this.root.append(line);
    }
    const before = this.height;
    line.textContent = text;
    line.classList.toggle("ostinato-wrong", wrong);
    this.root.style.minHeight = `${this.height}px`;
    if (before !== this.height) grow(this.node);
  }

  private get height(): number {
    const count = [...this.lines.values()].reduce((sum, line) => sum + line.textContent!.split("\n").length, 0);
    return LINE * Math.min(MOST, Math.max(1, count)) + 8;
  }
}

/** Writes a line under a node, in place of the one with that key. */
export function note(comfy: Comfy, node: Node, key: string, text: string, wrong = false): void {
  const place = `${comfy.graph.id} ${comfy.idOf(node)}`;
  const lines = kept.get(place) ?? new Map<string, Line>();
  kept.set(place, lines);
  lines.set(key, { text, wrong });
  show(node, lines);
}

/** Writes the lines that a node had when its workflow was left. */
export function restore(comfy: Comfy, node: Node): void {
  const lines = kept.get(`${comfy.graph.id} ${comfy.idOf(node)}`);
  if (lines) show(node, lines);
}

function show(node: Node, lines: Map<string, Line>): void {
  const box = boxes.get(node) ?? new Box(node);
  boxes.set(node, box);
  for (const [key, line] of lines) box.set(key, line);
}

/** Shows the text and the files that a run of a node made. */
export function noteOutput(comfy: Comfy, node: Node, output: Output): void {
  if (!ours(node)) return;
  const { text, files } = output;
  if (text?.length) note(comfy, node, "text", text.join("\n"));
  if (files?.length) note(comfy, node, "text", files.map((file) => String(file).split(/[\\/]/).at(-1)).join("\n"));
}
