// The live sessions of the open workflow: found, started, shown in their nodes, and left with it.

import { type Comfy, choose, grow, type MenuItem, type Node, typeOf } from "./comfy.ts";
import { Knobs } from "./knobs.ts";
import { costsText, Link } from "./link.ts";
import type { Choice } from "./menu.ts";
import { noteCosts, noteTurn } from "./notes.ts";
import { Panel } from "./panel.ts";
import { readVolume, writeVolume } from "./player.ts";
import type { Missing, Widget } from "./protocol.ts";
import { LiveSet } from "./set.ts";
import { worded } from "./words.ts";

export const LIVE = "OstinatoLiveSession"; // the node's type
const ROUTES = "/ostinato/live";
const CAPTURE = "Ostinato.CaptureSeconds"; // settings
const TURN = "Ostinato.LiveKnobs";
const EMPTY = 2000; // milliseconds after which a workflow without a node has none, and is not just being loaded
const CAPTURED = "OstinatoLiveCapture"; // a node's type
const LEAVE = 100; // milliseconds for the last message to go

interface Open {
  link: Link;
  knobs: Knobs;
  set: LiveSet;
}

export class Sessions {
  readonly open = new Map<string, Open>();
  private readonly panels = new Map<Node, Panel>();
  private readonly wanted = new Set<string>(); // names that play as soon as they are there

  constructor(private readonly comfy: Comfy) {}

  /** The name that the server has for a node's session. */
  nameOf(node: Node): string | null {
    const id = this.comfy.idOf(node);
    return id === null ? null : `${this.comfy.graph.id}.${id}`;
  }

  /** Makes the panel of a node. */
  panel(node: Node): Panel {
    const made = new Panel(
      {
        start: () => void this.start(node),
        pause: () => this.link(node)?.player.pause(),
        stop: () => this.stop(node),
        capture: () => this.capture(node),
        record: () => this.record(node),
        when: (when) => {
          const set = this.at(node)?.set;
          if (set) set.when = when;
        },
        volume: (value) => {
          writeVolume(value);
          for (const { link } of this.open.values()) link.player.volume = value;
        },
      },
      readVolume(),
    );
    this.panels.set(node, made);
    return made;
  }

  /** A run of the graph has reached a session. */
  ran(name: string): void {
    this.connect(name);
    this.open.get(name)!.set.ran();
  }

  /** A session is there: connects to it, once. */
  connect(name: string): Link {
    const known = this.open.get(name)?.link;
    if (known) return known;
    const link = new Link(this.comfy.socketUrl(`${ROUTES}/${encodeURIComponent(name)}/socket`));
    const knobs = new Knobs(this.comfy, link, () => this.comfy.setting(TURN, true));
    link.views.add({
      listed: (widgets) => this.listed(widgets),
      noted: (place, text, wrong) => this.noted(place, text, wrong),
      kept: (files) => this.kept(files),
      closed: () => void this.lost(name),
    });
    const id = name.slice(this.comfy.graph.id.length + 1);
    const set = new LiveSet(
      this.comfy,
      id,
      link,
      (widget, value) => knobs.turn(widget, value),
      (yes) => {
        for (const [node, panel] of this.panels) if (this.nameOf(node) === name) panel.rewired(yes);
      },
    );
    this.open.set(name, { link, knobs, set });
    for (const [node, panel] of this.panels) {
      if (this.nameOf(node) !== name) continue;
      panel.attach(link);
      grow(node);
    }
    if (this.wanted.delete(name)) void this.play(name);
    else void link.resume();
    return link;
  }

  /** Looks which nodes of the workflow have a session. */
  async find(): Promise<void> {
    this.tidy();
    const there = await this.there();
    for (const [node, panel] of this.panels) {
      const name = this.nameOf(node);
      if (name === null) continue;
      const open = this.open.get(name);
      if (open) {
        panel.attach(open.link);
        open.set.read();
      } else if (there?.has(name)) this.connect(name);
    }
  }

  /** A node left its graph: for good, or because another workflow, or this one again, takes its place. */
  removed(): void {
    setTimeout(() => {
      if (this.comfy.graph.nodes.length) this.tidy();
    });
    setTimeout(() => this.tidy(), EMPTY);
  }

  /** Ends the sessions of nodes that were removed, and leaves those of another workflow, which pause. */
  private tidy(): void {
    const prefix = `${this.comfy.graph.id}.`;
    for (const [node, panel] of [...this.panels]) {
      if (this.nameOf(node) !== null) continue;
      panel.close();
      this.panels.delete(node);
    }
    for (const [name, { link }] of [...this.open]) {
      const node = name.startsWith(prefix) && this.comfy.chain(name.slice(prefix.length))?.at(-1);
      if (node && typeOf(node) === LIVE) continue;
      if (node !== false) link.player.send({ type: "end" });
      this.leave(name);
    }
  }

  /** Plays; runs what the node needs first where it has no session yet. */
  async start(node: Node): Promise<void> {
    const name = this.nameOf(node);
    const id = this.comfy.idOf(node);
    if (name === null || id === null) return;
    if (this.open.has(name)) return this.play(name);
    this.wanted.add(name);
    this.panels.get(node)?.said(worded("The graph runs …"));
    await this.comfy.queue(id);
  }

  private async play(name: string): Promise<void> {
    const { link, set } = this.open.get(name)!;
    void set.signals.wake();
    await link.start();
  }

  stop(node: Node): void {
    this.wanted.clear();
    this.link(node)?.player.stop();
  }

  capture(node: Node): void {
    this.link(node)?.capture(this.comfy.setting(CAPTURE, 30));
  }

  record(node: Node): void {
    const link = this.link(node);
    link?.record(!link.figures?.recording);
  }

  /** Shows in the panels what the workflow names and the server's machine does not have. */
  async missing(): Promise<void> {
    if (!this.panels.size) return;
    const body = JSON.stringify(await this.comfy.prompt());
    const answer = await this.comfy.fetch(`${ROUTES}/missing`, { method: "POST", body }).catch(() => null);
    const list: Missing[] = answer?.ok ? await answer.json() : []; // nothing is known where the server is away
    for (const panel of this.panels.values()) panel.missing(list);
  }

  /** What a menu offers for the widgets of a node that turn a session, those of a subgraph's nodes for its own node. */
  choices(node: Node): Choice[] {
    const id = this.comfy.idOf(node);
    const found: Choice[] = [];
    for (const { link, set } of this.open.values()) {
      for (const widget of link.widgets) {
        if (widget.node !== id && !widget.node.startsWith(`${id}:`)) continue;
        const name = widget.input.replaceAll("_", " ");
        found.push(...set.signals.choices(widget).map(({ text, act }) => ({ text: `${name}: ${text}`, act })));
      }
    }
    return found;
  }

  /** The same for the editor's own menu of the node. */
  menu(node: Node): MenuItem[] {
    const options = this.choices(node).map(({ text, act }) => ({ content: text, callback: act }));
    return options.length
      ? [{ content: worded("Ostinato: controllers"), has_submenu: true, submenu: { options } }]
      : [];
  }

  /** Ends the wait for a controller. */
  cancel(): void {
    for (const { set } of this.open.values()) set.signals.cancel();
  }

  /** Silence now, whatever the server does. */
  panic(): void {
    this.wanted.clear();
    for (const { link } of this.open.values()) link.player.stop();
  }

  /** A run went wrong: nothing is waited for. */
  failed(): void {
    this.wanted.clear();
    for (const panel of this.panels.values()) panel.said("");
  }

  /** The nodes of this workflow that play, and the link of each where it has one. */
  *nodes(): Generator<[Node, Link | undefined]> {
    for (const chain of this.comfy.chains()) {
      const node = chain.at(-1)!;
      if (typeOf(node) === LIVE) yield [node, this.link(node)];
    }
  }

  link(node: Node): Link | undefined {
    return this.at(node)?.link;
  }

  private at(node: Node): Open | undefined {
    const name = this.nameOf(node);
    return name === null ? undefined : this.open.get(name);
  }

  /** The session that a node's widgets turn. */
  linkAbove(node: Node): Link | undefined {
    const id = this.comfy.idOf(node);
    for (const { link } of this.open.values()) if (link.widgets.some((widget) => widget.node === id)) return link;
    return undefined;
  }

  private listed(widgets: Widget[]): void {
    for (const id of new Set(widgets.map(({ node }) => node))) {
      const node = this.comfy.chain(id)?.at(-1);
      const text = costsText(widgets.filter((widget) => widget.node === id));
      if (node) noteCosts(this.comfy, node, text);
    }
  }

  /** Chooses a new capture in the only Live Capture node, or in those of several that are selected. */
  private kept(files: string[]): void {
    const sound = files[0]!;
    if (files.length === 1) return; // a recording is no capture: that has a latent and a take beside its sound
    const all = [...this.comfy.chains()].map((chain) => chain.at(-1)!).filter((node) => typeOf(node) === CAPTURED);
    const chosen = all.length > 1 ? all.filter((node) => this.comfy.selection.includes(node)) : all;
    this.comfy.change(() => {
      for (const node of chosen) choose(node, "capture", sound.replace(/\.[^.]*$/, ""));
    });
  }

  private noted(place: string, text: string, wrong: boolean): void {
    const [id, ...input] = place.split(" ");
    const node = this.comfy.chain(id!)?.at(-1);
    if (node) noteTurn(this.comfy, node, input.join(" "), text, wrong);
  }

  /** The connection went: where the server has the session no more, it is made again if it played. */
  private async lost(name: string): Promise<void> {
    const there = await this.there();
    const open = this.open.get(name);
    if (!open || !there || there.has(name)) return;
    const played = open.link.player.wasPlaying;
    this.leave(name);
    if (!played) return;
    for (const node of this.panels.keys()) if (this.nameOf(node) === name) void this.start(node);
  }

  /** Ends the connection; a session that nobody listens to pauses. */
  private leave(name: string): void {
    const open = this.open.get(name);
    if (!open) return;
    this.open.delete(name);
    open.knobs.close();
    open.set.close();
    for (const [node, panel] of this.panels) if (this.nameOf(node) === name) panel.attach(null);
    setTimeout(() => open.link.player.close(), LEAVE);
  }

  private async there(): Promise<Set<string> | null> {
    try {
      const answer = await this.comfy.fetch(ROUTES);
      return answer.ok ? new Set(Object.keys(await answer.json())) : null;
    } catch {
      return null; // the server is away
    }
  }
}
