// The graph as an instrument: a value that changes in the canvas, however it does, is sent to the session at once.

import { everyBeat } from "./clock.ts";
import { type Chain, type Comfy, setValueAt, valueAt } from "./comfy.ts";
import type { Link, View } from "./link.ts";
import type { Value, Widget } from "./protocol.ts";

const TYPING = 400; // milliseconds that a text must rest, for a prompt is encoded anew

/** What is known of one widget: the value that the session has, and since when the canvas has another. */
interface Known {
  sent: string;
  seen: string;
  since: number;
}

export class Knobs implements View {
  private readonly known = new Map<string, Known>();
  private readonly end: () => void;

  constructor(
    private readonly comfy: Comfy,
    private readonly link: Link,
    private readonly live: () => boolean,
  ) {
    link.views.add(this);
    this.end = everyBeat((now) => this.look(now));
  }

  close(): void {
    this.end();
    this.link.views.delete(this);
  }

  listed(widgets: Widget[]): void {
    this.known.clear();
    for (const { node, input, value } of widgets) {
      const sent = JSON.stringify(value);
      this.known.set(`${node} ${input}`, { sent, seen: sent, since: 0 });
    }
  }

  /** Turns a widget in the canvas, for a controller; the session has it at once. */
  turn(widget: Widget, value: Value): void {
    const chain = this.comfy.chain(widget.node);
    if (!chain) return;
    setValueAt(chain, widget.input, value);
    widget.value = value;
    if (this.live()) this.see(widget, chain, performance.now());
  }

  private look(now: number): void {
    if (!this.live()) return;
    const chains = new Map<string, Chain | null>();
    for (const widget of this.link.widgets) {
      if (!chains.has(widget.node)) chains.set(widget.node, this.comfy.chain(widget.node));
      const chain = chains.get(widget.node);
      if (chain) this.see(widget, chain, now);
    }
  }

  /** Sends the value that the canvas has for a widget where the session has another. */
  private see(widget: Widget, chain: Chain, now: number): void {
    const known = this.known.get(`${widget.node} ${widget.input}`);
    const value = valueAt(chain, widget.input);
    if (!known || value === undefined || value === null) return;
    const text = JSON.stringify(value);
    if (text !== known.seen) {
      known.seen = text;
      known.since = now;
    }
    if (text === known.sent || (widget.kind === "text" && now - known.since < TYPING)) return;
    known.sent = text;
    this.link.turn(widget, JSON.parse(text) as Value); // a copy: the value may be a proxy
  }
}
