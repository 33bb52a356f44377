// Draws a curve widget over the sound while it plays, in every canvas; the value stays the editor's own widget's.

import { whileShown } from "./clock.ts";
import type { Node, Widget } from "./comfy.ts";
import { addElement, grow } from "./comfy.ts";
import { drawWaveform } from "./draw.ts";
import type { Link } from "./link.ts";
import { keepKeys } from "./panel.ts";
import { added, type Drawn, evaluator, INTERPOLATIONS, moved, type Point, readDrawn, removed } from "./shape.ts";
import { worded } from "./words.ts";

const HEIGHT = 180; // pixels
const KEY_STEP = 0.01; // of the field
const LINE_PARTS = 200;
const SVG = "http://www.w3.org/2000/svg";

export class CurveEditor {
  private readonly root = Object.assign(document.createElement("div"), { className: "ostinato ostinato-curve" });
  private readonly field = Object.assign(document.createElement("div"), { className: "ostinato-curve-field" });
  private readonly canvas = document.createElement("canvas");
  private readonly line = document.createElementNS(SVG, "path");
  private readonly handles: HTMLButtonElement[] = [];
  private readonly kinds = document.createElement("select");
  private shown = "";
  private drawn: Drawn = readDrawn(null);
  readonly end: () => void;

  constructor(
    node: Node,
    private readonly widget: Widget,
    private readonly link: () => Link | undefined,
  ) {
    this.kinds.setAttribute("aria-label", worded("Between the points"));
    for (const kind of INTERPOLATIONS) this.kinds.add(new Option(kind.replace("_", " "), kind));
    this.kinds.onchange = () => this.give({ ...this.drawn, interpolation: this.kinds.value });
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 1 1");
    svg.setAttribute("preserveAspectRatio", "none");
    this.line.classList.add("ostinato-curve-line");
    svg.append(this.line);
    this.field.append(this.canvas, svg);
    this.field.title = worded("Double-click adds a point; Delete removes one; arrows move it.");
    this.field.ondblclick = (event) => {
      if (!(event.target instanceof HTMLButtonElement)) this.add(pointIn(this.field.getBoundingClientRect(), event));
    };
    this.root.style.minHeight = `${HEIGHT}px`;
    this.root.append(this.kinds, this.field);
    this.root.addEventListener("keydown", keepKeys);
    addElement(node, "ostinato_curve", this.root, () => HEIGHT);
    grow(node);
    this.end = whileShown(this.root, (now) => this.look(now));
    this.look(0);
  }

  /** Follows the widget, which undo, another editor or a loaded workflow may have changed, and draws the sound. */
  private look(now: number): void {
    const text = JSON.stringify(this.widget.value ?? null);
    if (text !== this.shown) {
      this.shown = text;
      this.drawn = readDrawn(JSON.parse(text));
      this.show();
    }
    const link = this.link();
    if (link) drawWaveform(this.canvas, link.waveform, link.position, now);
  }

  private give(drawn: Drawn): void {
    this.drawn = drawn;
    this.widget.value = drawn;
    this.widget.callback?.(drawn);
    this.shown = JSON.stringify(drawn);
    this.show();
  }

  private show(): void {
    const { points, interpolation } = this.drawn;
    const at = evaluator(this.drawn);
    const parts = Array.from({ length: LINE_PARTS + 1 }, (_, i) => `${i / LINE_PARTS} ${1 - at(i / LINE_PARTS)}`);
    this.line.setAttribute("d", `M${parts.join("L")}`);
    this.kinds.value = interpolation;
    while (this.handles.length > points.length) this.handles.pop()!.remove();
    while (this.handles.length < points.length) this.handles.push(this.handle(this.handles.length));
    for (const [i, [x, y]] of points.entries()) {
      const handle = this.handles[i]!;
      handle.style.inset = `${100 * (1 - y)}% auto auto ${100 * x}%`;
      handle.setAttribute("aria-label", worded("Point %1 of %2", i + 1, points.length));
      handle.setAttribute("aria-valuetext", worded("%1 of the length, %2 of the height", x.toFixed(2), y.toFixed(2)));
      handle.setAttribute("aria-valuenow", y.toFixed(2));
    }
  }

  private handle(index: number): HTMLButtonElement {
    const made = Object.assign(document.createElement("button"), { type: "button", className: "ostinato-curve-point" });
    made.setAttribute("role", "slider");
    made.setAttribute("aria-valuemin", "0");
    made.setAttribute("aria-valuemax", "1");
    made.onpointerdown = () => this.drag(index);
    made.onkeydown = (event) => this.key(event, index);
    this.field.append(made);
    return made;
  }

  /** Moves a point with the pointer. The window is listened to: the editor may move the element meanwhile. */
  private drag(index: number): void {
    const field = this.field.getBoundingClientRect();
    const move = (event: PointerEvent) => this.give(moved(this.drawn, index, pointIn(field, event)));
    addEventListener("pointermove", move, true);
    addEventListener("pointerup", () => removeEventListener("pointermove", move, true), { capture: true, once: true });
  }

  private key(event: KeyboardEvent, index: number): void {
    const [x, y] = this.drawn.points[index]!;
    const next = this.drawn.points[index + 1];
    const moves: Record<string, Point> = {
      ArrowLeft: [x - KEY_STEP, y],
      ArrowRight: [x + KEY_STEP, y],
      ArrowUp: [x, y + KEY_STEP],
      ArrowDown: [x, y - KEY_STEP],
    };
    const to = moves[event.key];
    if (to) this.give(moved(this.drawn, index, to));
    else if (event.key === "Delete" || event.key === "Backspace") this.give(removed(this.drawn, index));
    else if (event.key === "Insert" || event.key === "Enter") {
      this.add(next ? [(x + next[0]) / 2, (y + next[1]) / 2] : [(x + (this.drawn.points[index - 1]?.[0] ?? 0)) / 2, y]);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  private add(point: Point): void {
    const [drawn, index] = added(this.drawn, point);
    this.give(drawn);
    this.handles[index]!.focus();
  }
}

/** Where an event lies in a rectangle on the page, which has the canvas's zoom in it. */
function pointIn({ left, top, width, height }: DOMRect, { clientX, clientY }: MouseEvent): Point {
  return [(clientX - left) / width, 1 - (clientY - top) / height];
}
