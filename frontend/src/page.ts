// The page of `ostinato live`: the graph's widgets, the player, and what it costs to turn a knob.

import { whileShown } from "./clock.ts";
import { drawRing, drawWaveform, ringText } from "./draw.ts";
import { costText, downloadOf, type Link, recordText, stateText } from "./link.ts";
import { openMenu } from "./menu.ts";
import { type Missing, missingText, type Settings, type Value, type Widget } from "./protocol.ts";
import { readWhen, WHEN_TEXT } from "./quantise.ts";
import { Signals } from "./signals.ts";
import { control } from "./widgets.ts";
import { speak, textsOf, worded } from "./words.ts";

const CAPTURE_SECONDS = 30;
const DRAWN = 80; // milliseconds between two drawings: without a GPU one over the page's width takes the music's processor
const ROUTES = "/ostinato/live";

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** Puts the words that the page came with into the browser's language. */
function translate(language: string): void {
  const texts = textsOf(language);
  if (!Object.keys(texts).length) return;
  speak(texts);
  document.documentElement.lang = language;
  const words: Record<string, string> = {
    play: worded("Play"),
    pause: worded("Pause"),
    stop: worded("Stop"),
    capture: worded("Keep the last %1 s", CAPTURE_SECONDS),
    record: recordText(undefined),
    save: worded("Save the workflow"),
  };
  for (const [id, text] of Object.entries(words)) element(id).textContent = text;
  element("wave").setAttribute("aria-label", worded("The sound of one round, and where it plays"));
  for (const option of element<HTMLSelectElement>("when").options) option.text = WHEN_TEXT[readWhen(option.value)]();
  for (const [id, text] of [
    ["when", worded("Changes")],
    ["volume", worded("Volume")],
  ] as const) {
    element(id).parentElement!.firstChild!.textContent = `${text} `;
  }
}

export class Page {
  private readonly signals: Signals;
  private readonly shown = new Map<string, { set: (value: Value) => void; note: HTMLElement }>();

  constructor(
    private readonly link: Link,
    root: HTMLElement,
  ) {
    const { player } = link;
    translate(navigator.language);
    link.views.add({
      listed: (widgets) => this.list(widgets),
      noted: (place, text, wrong) => this.note(place, text, wrong),
      said: (text) => this.say(text),
      opened: (settings, missing) => this.opened(settings, missing),
      kept: (files) => element("kept").replaceChildren(downloadOf(link, files)),
      figures: () => this.show(),
    });
    element("play").onclick = () => {
      void link.start();
      void this.signals.wake();
    };
    element("pause").onclick = () => player.pause();
    element("stop").onclick = () => player.stop();
    element("capture").onclick = () => link.capture(CAPTURE_SECONDS);
    element("record").onclick = () => link.record(!link.figures?.recording);
    element("save").onclick = () => {
      location.href = `${ROUTES}/${encodeURIComponent(root.dataset.session ?? "live")}/workflow`;
    };
    const when = element<HTMLSelectElement>("when");
    when.onchange = () => {
      link.when = readWhen(when.value);
      this.share();
    };
    this.signals = new Signals(
      link,
      (widget, value) => {
        this.shown.get(`${widget.node} ${widget.input}`)?.set(value);
        link.turn(widget, value);
      },
      () => this.share(),
      (text) => this.say(text),
    );
    element("widgets").addEventListener("contextmenu", (event) => this.menu(event));
    addEventListener("keydown", ({ key, code, altKey, shiftKey }) => {
      if (key === "Escape") this.signals.cancel();
      if (altKey && shiftKey && code === "KeyC") link.capture(CAPTURE_SECONDS); // as in ComfyUI
    });
    const [wave, ring] = [element<HTMLCanvasElement>("wave"), element<HTMLCanvasElement>("ring")];
    whileShown(
      wave,
      (now) => {
        drawWaveform(wave, link.waveform, link.position, now);
        drawRing(ring, link.figures?.slots ?? []);
        element("queue").textContent = link.queue.text(link.position);
      },
      DRAWN,
    );
    const volume = element<HTMLInputElement>("volume");
    volume.value = String(player.volume);
    volume.oninput = () => {
      player.volume = Number(volume.value);
    };
    if (player.plain) {
      element("plain").textContent = worded(
        "This address is no secure one: the sound comes later here than at http://localhost or over https.",
      );
    }
    void link.resume();
  }

  private say(text: string): void {
    element("message").textContent = text;
  }

  private opened({ when, midi }: Settings, missing: Missing[]): void {
    this.link.when = when;
    element<HTMLSelectElement>("when").value = when;
    void this.signals.use(midi);
    const list = element("missing");
    const line = (one: Missing) => Object.assign(document.createElement("li"), { textContent: missingText(one) });
    list.replaceChildren(...missing.map(line));
    list.hidden = !missing.length;
  }

  /** The settings of the set have changed: the server keeps them, for a reload and for the saved workflow. */
  private share(): void {
    this.link.share({ when: this.link.when, midi: this.signals.midi.map });
  }

  /** The menu of a widget. Fields of text keep the browser's own. */
  private menu(event: MouseEvent): void {
    const place = (event.target as HTMLElement).closest<HTMLElement>("[data-place]")?.dataset.place;
    const widget = this.link.widgets.find(({ node, input }) => `${node} ${input}` === place);
    const choices = widget ? this.signals.choices(widget) : [];
    if (!choices.length) return;
    event.preventDefault();
    openMenu(event.clientX, event.clientY, choices);
  }

  private show(): void {
    const { figures, state, underruns } = this.link;
    const parts = [
      stateText(state),
      worded("%1 ms a tick", (figures?.tick ?? 0).toFixed(0)),
      worded("%1 ms ahead", (1000 * (figures?.ahead ?? 0)).toFixed(0)),
      `${(figures?.loudness ?? 0).toFixed(1)} LUFS ${(figures?.gain ?? 0).toFixed(1)} dB`,
      worded("%1 underruns", underruns),
    ];
    const recording = figures?.recording;
    element("record").setAttribute("aria-pressed", String(Boolean(recording)));
    element("record").textContent = recordText(recording);
    element("figures").textContent = parts.join(" · ");
    element("ring").setAttribute("aria-label", ringText(figures?.slots ?? []));
  }

  private note(place: string, text: string, wrong: boolean): void {
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
      const made = control(widget, (value) => void this.link.turn(widget, value));
      group.append(made.row);
      made.note.textContent = costText(widget.cost);
      this.shown.set(`${widget.node} ${widget.input}`, made);
    }
  }
}
