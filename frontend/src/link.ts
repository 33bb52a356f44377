// One live session as a page has it: the player, its widgets, the figures, and what turning a widget took.

import { Latencies } from "./latency.ts";
import { Player } from "./player.ts";
import type { Figures, FromServer, Missing, Settings, Value, Widget } from "./protocol.ts";
import { RATE } from "./protocol.ts";
import { Queue, type When } from "./quantise.ts";
import { Waveform } from "./waveform.ts";
import { worded } from "./words.ts";

const COSTS: Record<string, () => string> = {
  nothing: () => worded("already so"),
  tick: () => worded("next tick"),
  slot: () => worded("next generation"),
  ring: () => worded("a new ring; the old music goes on"),
};

const STATES: Record<string, () => string> = {
  ready: () => worded("ready"),
  playing: () => worded("playing"),
  paused: () => worded("paused"),
  closed: () => worded("closed"),
};

/** What a session does now. */
export function stateText(state: string): string {
  return STATES[state]?.() ?? state;
}

/** What turning a widget takes. */
export function costText(cost: string): string {
  return COSTS[cost]?.() ?? cost;
}

/** What the widgets of a node take before they are turned: what most of them do, then those that do otherwise. */
export function costsText(widgets: Pick<Widget, "input" | "cost">[]): string {
  const by = new Map<string, string[]>();
  for (const { input, cost } of widgets) by.set(cost, [...(by.get(cost) ?? []), input]);
  const [most, ...others] = [...by].sort(([, a], [, b]) => b.length - a.length);
  if (!most) return "";
  return [
    worded("live: %1", costText(most[0])),
    ...others.map(([cost, inputs]) => `${inputs.join(", ")}: ${costText(cost)}`),
  ].join("\n");
}

/** Those who look on; every method may be left out. */
export interface View {
  /** The widgets came, with the values of now. */
  listed?(widgets: Widget[]): void;
  /** What became of a turn of the widget at `place`, "node input". */
  noted?(place: string, text: string, wrong: boolean): void;
  /** A sentence for the user; an empty one takes the last away. */
  said?(text: string): void;
  /** The figures or the state changed. */
  figures?(): void;
  /** The settings came that the workflow's file has, and what is missing of what it names. */
  opened?(settings: Settings, missing: Missing[]): void;
  /** These files of a capture or a recording are there now. */
  kept?(files: string[]): void;
  /** The connection was lost; it is tried again. */
  closed?(): void;
}

export class Link {
  readonly latencies = new Latencies();
  readonly player: Player;
  readonly views = new Set<View>();
  figures: Figures | null = null;
  widgets: Widget[] = [];
  readonly queue = new Queue();
  when: When = "now"; // when a turn is heard: at once, or at the next beat or bar
  underruns = 0;
  lead = 0; // samples
  ahead = 0; // samples that are here and not heard yet
  state = "";
  waveform = new Waveform(RATE);
  private next = 1;
  private session = "";
  private at = { position: 0, when: 0, moving: false };

  constructor(private readonly url: string) {
    this.player = new Player(url, {
      message: (message) => this.receive(message),
      closed: (reason) => {
        this.say(`${worded("Connecting again …")}${reason ? ` (${reason})` : ""}`);
        for (const view of this.views) view.closed?.();
      },
      heard: (heard) => this.latencies.heard(heard),
      at: (at, ahead) => {
        this.underruns = at.underruns;
        this.lead = at.lead;
        this.ahead = ahead;
        this.at = { position: at.position, when: performance.now(), moving: at.moving };
      },
      peaks: (peaks) => this.waveform.take(peaks, performance.now()),
    });
    this.latencies.told = (place, milliseconds, kind) =>
      this.note(place, `${costText(kind)}: ${Math.round(milliseconds)} ms`);
  }

  /** The sample that sounds now. */
  get position(): number {
    const { position, when, moving } = this.at;
    return moving ? position + ((performance.now() - when) * RATE) / 1000 : position;
  }

  get playing(): boolean {
    return this.state === "playing";
  }

  async start(): Promise<void> {
    if (!(await this.player.start())) this.say(worded("The browser waits for a click before it sounds."));
  }

  /** Goes on after a reload; browsers that want a click first get it from the next one. */
  async resume(): Promise<void> {
    if (!this.player.wasPlaying || (await this.player.start())) return;
    this.say(worded("Click anywhere to go on."));
    const go = () => void this.start();
    for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, go, { once: true });
  }

  capture(seconds: number): void {
    this.player.send({ type: "capture", id: this.next++, seconds });
  }

  record(on: boolean): void {
    this.player.send({ type: "record", id: this.next++, on });
  }

  /** Where a file that the session kept is downloaded from. */
  fileUrl(name: string): string {
    return this.url.replace(/^ws/, "http").replace(/socket$/, `kept/${encodeURIComponent(name)}`);
  }

  /** Gives the server the settings, where it has the workflow's file. */
  share(settings: Settings): void {
    this.player.send({ type: "settings", ...settings });
  }

  /** Turns a widget, and returns the id that `latencies` knows it by. */
  turn(widget: Pick<Widget, "node" | "input">, value: Value): number {
    const id = this.next++;
    const { node, input } = widget;
    this.latencies.turned(id, `${node} ${input}`);
    this.queue.turned(`${node} ${input}`);
    const known = this.widgets.find((one) => one.node === node && one.input === input);
    if (known) known.value = value;
    this.player.send({ type: "set", id, node, input, value, ...(this.when === "now" ? {} : { when: this.when }) });
    return id;
  }

  private receive(message: FromServer): void {
    if (message.type === "welcome") {
      this.say("");
      this.widgets = message.widgets;
      this.queue.forget();
      if (this.session !== message.session) this.latencies.forget();
      this.session = message.session;
      this.state = message.state;
      for (const view of this.views) {
        view.listed?.(message.widgets);
        if (message.settings) view.opened?.(message.settings, message.missing ?? []);
      }
      if (this.player.wasPlaying && message.state !== "playing") this.player.send({ type: "start" });
    } else if (message.type === "widgets") {
      this.widgets = message.widgets;
      for (const view of this.views) view.listed?.(message.widgets);
    } else if (message.type === "queued") {
      const place = `${message.node} ${message.input}`;
      this.queue.queued({ id: message.id, place, position: message.position });
      this.note(place, this.when === "bar" ? worded("waits for the bar") : worded("waits for the beat"));
    } else if (message.type === "recording") {
      this.say(
        message.error ?? (message.on ? worded("Recording %1", message.file) : worded("Recorded: %1", message.file)),
      );
      if (!message.on && message.file) this.kept([message.file]);
    } else if (message.type === "taken") {
      const waited = this.queue.taken(message.id);
      if (waited) this.latencies.turned(message.id, waited.place); // its wait is no latency
      const place = this.latencies.taken(message.id, message.change, message.cost);
      if (place) this.note(place, message.error ?? costText(message.cost), message.error !== null);
    } else if (message.type === "captured") {
      this.say(message.error ?? worded("Kept: %1", message.files.join(", ")));
      if (message.files.length) this.kept(message.files);
    } else if (message.type === "figures") {
      this.take(message);
    } else {
      this.say(message.error);
    }
  }

  private take(figures: Figures): void {
    const failed = Boolean(this.figures?.error);
    this.figures = figures;
    this.state = figures.state;
    const samples = Math.round(figures.length * RATE);
    if (samples !== this.waveform.samples) this.waveform = new Waveform(samples);
    if (figures.error || failed) this.say(figures.error ?? ""); // what was mended is no longer told
    for (const view of this.views) view.figures?.();
  }

  private kept(files: string[]): void {
    for (const view of this.views) view.kept?.(files);
  }

  say(text: string): void {
    for (const view of this.views) view.said?.(text);
  }

  private note(place: string, text: string, wrong = false): void {
    for (const view of this.views) view.noted?.(place, text, wrong);
  }
}

/** What the button to record says, given the file that is written and how long it is. */
export function recordText(recording: Figures["recording"] | undefined): string {
  return recording ? worded("End recording (%1 s)", recording[1].toFixed(0)) : worded("Record");
}

/** Makes a link to the sound among the files that a session kept: the first of them. */
export function downloadOf(link: Link, [name]: string[]): HTMLElement {
  return Object.assign(document.createElement("a"), {
    href: link.fileUrl(name!),
    download: name,
    textContent: worded("Download %1", name!),
  });
}
