// The live sessions of the open workflow: found, started, shown in their nodes, and left with it.

import { type Comfy, grow, type Node, typeOf } from "./comfy.ts";
import { Knobs } from "./knobs.ts";
import { Link } from "./link.ts";
import { noteTurn } from "./notes.ts";
import { Panel } from "./panel.ts";
import { readVolume, writeVolume } from "./player.ts";

export const LIVE = "OstinatoLiveSession"; // the node's type
const ROUTES = "/ostinato/live";
const CAPTURE = "Ostinato.CaptureSeconds"; // settings
const TURN = "Ostinato.LiveKnobs";
const EMPTY = 2000; // milliseconds after which a workflow without a node has none, and is not just being loaded
const LEAVE = 100; // milliseconds for the last message to go

interface Open {
  link: Link;
  knobs: Knobs;
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

  /** A session is there: connects to it, once. */
  connect(name: string): Link {
    const known = this.open.get(name)?.link;
    if (known) return known;
    const link = new Link(this.comfy.socketUrl(`${ROUTES}/${encodeURIComponent(name)}/socket`));
    const knobs = new Knobs(this.comfy, link, () => this.comfy.setting(TURN, true));
    link.views.add({
      noted: (place, text, wrong) => this.noted(place, text, wrong),
      closed: () => void this.lost(name),
    });
    this.open.set(name, { link, knobs });
    for (const [node, panel] of this.panels) {
      if (this.nameOf(node) !== name) continue;
      panel.attach(link);
      grow(node);
    }
    if (this.wanted.delete(name)) void link.start();
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
      if (this.open.has(name)) panel.attach(this.open.get(name)!.link);
      else if (there?.has(name)) this.connect(name);
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
    const link = this.open.get(name)?.link;
    if (link) return link.start();
    this.wanted.add(name);
    this.panels.get(node)?.said("The graph runs …");
    await this.comfy.queue(id);
  }

  stop(node: Node): void {
    this.wanted.clear();
    this.link(node)?.player.stop();
  }

  capture(node: Node): void {
    this.link(node)?.capture(this.comfy.setting(CAPTURE, 30));
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
    const name = this.nameOf(node);
    return name === null ? undefined : this.open.get(name)?.link;
  }

  /** The session that a node's widgets turn. */
  linkAbove(node: Node): Link | undefined {
    const id = this.comfy.idOf(node);
    for (const { link } of this.open.values()) if (link.widgets.some((widget) => widget.node === id)) return link;
    return undefined;
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
