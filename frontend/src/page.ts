// The page of `ostinato live`: the graph's widgets, the player, and what it costs to turn a knob.

import { Latencies } from "./latency.ts";
import { Player } from "./player.ts";
import type { FromServer, Value, Widget } from "./protocol.ts";
import { control } from "./widgets.ts";

const COSTS: Record<string, string> = {
  nothing: "already so",
  tick: "next tick",
  slot: "next generation",
  ring: "a new ring; the old music goes on",
};

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

export class Page {
  readonly latencies = new Latencies();
  readonly player: Player;
  figures: Record<string, number | string | null> = {};
  underruns = 0;
  state = "";
  private next = 1;
  private readonly shown = new Map<string, { set: (value: Value) => void; note: HTMLElement }>();
  private session = "";

  constructor(url: string) {
    this.player = new Player(url, {
      message: (message) => this.receive(message),
      closed: (reason) => this.say(`Connecting again${reason ? ` (${reason})` : ""} …`),
      heard: (heard) => this.latencies.heard(heard),
      at: (at) => {
        this.underruns = at.underruns;
      },
    });
    this.latencies.told = (place, milliseconds, kind) =>
      this.note(place, `${COSTS[kind]}: ${Math.round(milliseconds)} ms`);
    element("play").onclick = () => void this.start();
    element("pause").onclick = () => this.player.pause();
    element("stop").onclick = () => this.player.stop();
    element("capture").onclick = () => this.player.send({ type: "capture", id: this.next++, seconds: 30 });
    const volume = element<HTMLInputElement>("volume");
    volume.value = String(this.player.volume);
    volume.oninput = () => {
      this.player.volume = Number(volume.value);
    };
    if (this.player.plain) {
      element("plain").textContent =
        "This address is not a secure one, so the page plays without an AudioWorklet and with more delay; open it as http://localhost.";
    }
    if (Player.wasPlaying) void this.resume();
  }

  async start(): Promise<void> {
    if (!(await this.player.start())) this.say("The browser waits for a click before it sounds.");
  }

  /** Goes on after a reload; browsers that want a click first get it from the next one. */
  private async resume(): Promise<void> {
    if (await this.player.start()) return;
    this.say("Click anywhere to go on.");
    const go = () => void this.start();
    for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, go, { once: true });
  }

  /** Turns a widget, and returns the id that `latencies` knows it by. */
  turn(widget: Pick<Widget, "node" | "input">, value: Value): number {
    const id = this.next++;
    const { node, input } = widget;
    this.latencies.turned(id, `${node} ${input}`);
    this.player.send({ type: "set", id, node, input, value });
    return id;
  }

  private receive(message: FromServer): void {
    if (message.type === "welcome") {
      this.say("");
      this.list(message.widgets);
      if (this.session !== message.session) this.latencies.forget();
      this.session = message.session;
      this.state = message.state;
      if (Player.wasPlaying && message.state !== "playing") this.player.send({ type: "start" });
    } else if (message.type === "taken") {
      const place = this.latencies.taken(message.id, message.change, message.cost);
      if (place) this.note(place, message.error ?? COSTS[message.cost] ?? message.cost, message.error !== null);
    } else if (message.type === "captured") {
      this.say(message.error ?? `Kept: ${message.files.join(", ")}`);
    } else if (message.type === "figures") {
      this.figures = message;
      this.state = message.state;
      this.show();
    } else {
      this.say(message.error);
    }
  }

  private show(): void {
    const { figures } = this;
    const parts = [
      this.state,
      `${Number(figures.tick ?? 0).toFixed(0)} ms a tick`,
      `${(1000 * Number(figures.ahead ?? 0)).toFixed(0)} ms ahead`,
      `${Number(figures.loudness ?? 0).toFixed(1)} LUFS ${Number(figures.gain ?? 0).toFixed(1)} dB`,
      `${this.underruns} underruns`,
    ];
    element("figures").textContent = parts.join(" · ");
    if (figures.error) this.say(figures.error as string);
  }

  private say(text: string): void {
    element("message").textContent = text;
  }

  private note(place: string, text: string, wrong = false): void {
    const note = this.shown.get(place)?.note;
    if (!note) return;
    note.textContent = text;
    note.classList.toggle("wrong", wrong);
  }

  private list(widgets: Widget[]): void {
    const places = widgets.map(({ node, input }) => `${node} ${input}`);
    if (places.join("\n") === [...this.shown.keys()].join("\n")) {
      for (const [index, widget] of widgets.entries()) this.shown.get(places[index]!)!.set(widget.value);
      return;
    }
    const root = element("widgets");
    root.replaceChildren();
    this.shown.clear();
    let group: HTMLFieldSetElement | null = null;
    let owner = "";
    for (const widget of widgets) {
      if (!group || owner !== widget.node) {
        owner = widget.node;
        group = document.createElement("fieldset");
        group.append(Object.assign(document.createElement("legend"), { textContent: widget.title }));
        root.append(group);
      }
      const made = control(widget, (value) => this.turn(widget, value));
      group.append(made.row);
      this.shown.set(`${widget.node} ${widget.input}`, made);
    }
  }
}

const root = document.getElementById("ostinato-live");
if (root) {
  const name = root.dataset.session ?? "live";
  const page = new Page(`${location.origin.replace(/^http/, "ws")}/ostinato/live/${encodeURIComponent(name)}/socket`);
  Object.assign(window, { ostinato: page });
}
