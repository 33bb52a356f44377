// What a Live Session shows in its node: buttons, volume, figures, the sound that was heard, and the ring.

import { whileShown } from "./clock.ts";
import { drawRing, drawWaveform, ringText } from "./draw.ts";
import { downloadOf, type Link, recordText, stateText, type View } from "./link.ts";
import { type Missing, missingText, RATE } from "./protocol.ts";
import { readWhen, WHEN, WHEN_TEXT, type When } from "./quantise.ts";
import { worded } from "./words.ts";

export const PANEL_HEIGHT = 264; // pixels

/** What the buttons do; `start` may have to run the graph first. */
export interface Actions {
  start(): void;
  pause(): void;
  stop(): void;
  capture(): void;
  record(): void;
  when(when: When): void;
  volume(value: number): void;
}

function make<K extends keyof HTMLElementTagNameMap>(
  kind: K,
  owner: HTMLElement,
  more: Partial<HTMLElementTagNameMap[K]> = {},
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(kind), more);
  owner.append(made);
  return made;
}

export class Panel implements View {
  readonly root = Object.assign(document.createElement("div"), { className: "ostinato ostinato-panel" });
  private readonly wave: HTMLCanvasElement;
  private readonly ring: HTMLCanvasElement;
  private readonly status: HTMLElement;
  private readonly turned: HTMLElement;
  private readonly queue: HTMLElement;
  private readonly message: HTMLElement;
  private readonly download: HTMLElement;
  private readonly lacking: HTMLElement;
  private readonly again: HTMLElement;
  private readonly playing: HTMLButtonElement;
  private readonly recording: HTMLButtonElement;
  private readonly when: HTMLSelectElement;
  private link: Link | null = null;
  private readonly end: () => void;

  constructor(actions: Actions, volume: number) {
    const { root } = this;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", worded("Live session"));
    root.style.minHeight = `${PANEL_HEIGHT}px`;
    const buttons = make("div", root, { className: "ostinato-row" });
    const button = (textContent: string, title: string, onclick: () => void) =>
      make("button", buttons, { textContent, title, onclick, type: "button" });
    this.playing = button(worded("Play"), worded("Play, or go on; the graph runs first where it has not yet"), () =>
      actions.start(),
    );
    button(worded("Pause"), worded("Make nothing more, until Play"), () => actions.pause());
    button(worded("Stop"), worded("Pause, and drop what was not heard yet"), () => actions.stop());
    button(worded("Capture"), worded("Keep what was heard last"), () => actions.capture());
    const label = make("label", buttons, { textContent: `${worded("Volume")} ` });
    const slider = make("input", label, { type: "range", min: "0", max: "1", step: "0.01", value: String(volume) });
    slider.oninput = () => actions.volume(Number(slider.value));
    const set = make("div", root, { className: "ostinato-row" });
    const record = {
      textContent: worded("Record"),
      title: worded("Write what is heard to a file, until it is pressed again"),
    };
    this.recording = make("button", set, { ...record, onclick: () => actions.record(), type: "button" });
    this.when = make("select", make("label", set, { textContent: `${worded("Changes")} ` }));
    for (const when of WHEN) this.when.add(new Option(WHEN_TEXT[when](), when));
    this.when.onchange = () => actions.when(readWhen(this.when.value));
    this.download = make("span", set);
    this.wave = make("canvas", root, { className: "ostinato-wave" });
    this.ring = make("canvas", root, { className: "ostinato-ring" });
    for (const canvas of [this.wave, this.ring]) canvas.setAttribute("role", "img");
    this.wave.setAttribute("aria-label", worded("The sound of one round, and where it plays"));
    this.status = make("div", root, { className: "ostinato-status", textContent: worded("Not started") });
    this.turned = make("div", root, { className: "ostinato-status" });
    this.queue = make("div", root, { className: "ostinato-status ostinato-queue" });
    this.message = make("div", root, { className: "ostinato-message ostinato-wrong" });
    this.message.setAttribute("role", "alert");
    const text = worded("Nodes or links have changed: run the graph, and the music goes on with them.");
    this.again = make("div", root, { className: "ostinato-rewired", textContent: text, hidden: true });
    this.again.setAttribute("role", "status");
    this.lacking = make("ul", root, { className: "ostinato-missing ostinato-wrong", hidden: true });
    this.lacking.setAttribute("aria-label", worded("Missing on this machine"));
    root.addEventListener("keydown", keepKeys);
    this.end = whileShown(root, (now) => this.draw(now));
  }

  /** Shows a session, or none. */
  attach(link: Link | null): void {
    this.link?.views.delete(this);
    this.link = link;
    link?.views.add(this);
    this.said("");
    this.rewired(false);
    this.figures();
    if (link?.player.plain) {
      this.said(
        worded("This address is no secure one: the sound comes later here than at http://localhost or over https."),
      );
    }
  }

  /** Shows a download of what the session kept. */
  kept(files: string[]): void {
    if (this.link) this.download.replaceChildren(downloadOf(this.link, files));
  }

  /** Says that the graph is another one than what plays. */
  rewired(yes: boolean): void {
    this.again.hidden = !yes;
  }

  /** Lists what the workflow names and the server's machine does not have. */
  missing(list: Missing[]): void {
    const line = (one: Missing) => Object.assign(document.createElement("li"), { textContent: missingText(one) });
    this.lacking.replaceChildren(...list.map(line));
    this.lacking.hidden = !list.length;
  }

  close(): void {
    this.attach(null);
    this.end();
  }

  said(text: string): void {
    this.message.textContent = text;
  }

  noted(place: string, text: string, wrong: boolean): void {
    this.turned.textContent = `${place.split(" ").slice(1).join(" ")}: ${text}`;
    this.turned.classList.toggle("ostinato-wrong", wrong);
  }

  figures(): void {
    const { link } = this;
    this.playing.setAttribute("aria-pressed", String(Boolean(link?.playing)));
    const recording = link?.figures?.recording;
    this.recording.setAttribute("aria-pressed", String(Boolean(recording)));
    this.recording.textContent = recordText(recording);
    this.when.value = link?.when ?? "now";
    if (!link?.figures) {
      this.status.textContent = link ? worded("Connecting …") : worded("Not started");
      return;
    }
    const { tick, budget, loudness, dropped, slots } = link.figures;
    const parts = [
      stateText(link.state),
      worded("%1 of %2 ms a tick", (tick ?? 0).toFixed(0), budget.toFixed(0)),
      worded("%1 ms ahead, lead %2", ((1000 * link.ahead) / RATE).toFixed(0), ((1000 * link.lead) / RATE).toFixed(0)),
      worded("%1 underruns", link.underruns),
      `${loudness.toFixed(1)} LUFS`,
    ];
    if (link.figures.resting) parts.splice(1, 0, worded("resting"));
    if (dropped) parts.push(worded("%1 blocks dropped", dropped));
    this.status.textContent = parts.join(" · ");
    this.ring.setAttribute("aria-label", ringText(slots ?? []));
  }

  private draw(now: number): void {
    const { link } = this;
    if (!link) return;
    drawWaveform(this.wave, link.waveform, link.position, now);
    drawRing(this.ring, link.figures?.slots ?? []);
    this.queue.textContent = link.queue.text(link.position);
  }
}

/** Keeps plain keys from the editor, which would take them for its own; with Ctrl or Alt they are commands. */
export function keepKeys(event: KeyboardEvent): void {
  if (!event.ctrlKey && !event.altKey && !event.metaKey && event.key !== "Escape") event.stopPropagation();
}
