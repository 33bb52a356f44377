// The page of `ostinato live`: the graph's widgets, the player, and what it costs to turn a knob.

import type { Link } from "./link.ts";
import type { Value, Widget } from "./protocol.ts";
import { control } from "./widgets.ts";

const CAPTURE_SECONDS = 30;

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

export class Page {
  private readonly shown = new Map<string, { set: (value: Value) => void; note: HTMLElement }>();

  constructor(private readonly link: Link) {
    const { player } = link;
    link.views.add({
      listed: (widgets) => this.list(widgets),
      noted: (place, text, wrong) => this.note(place, text, wrong),
      said: (text) => {
        element("message").textContent = text;
      },
      figures: () => this.show(),
    });
    element("play").onclick = () => void link.start();
    element("pause").onclick = () => player.pause();
    element("stop").onclick = () => player.stop();
    element("capture").onclick = () => link.capture(CAPTURE_SECONDS);
    const volume = element<HTMLInputElement>("volume");
    volume.value = String(player.volume);
    volume.oninput = () => {
      player.volume = Number(volume.value);
    };
    if (player.plain) {
      element("plain").textContent =
        "This address is not a secure one, so the page plays without an AudioWorklet and with more delay; open it as http://localhost.";
    }
    void link.resume();
  }

  private show(): void {
    const { figures, state, underruns } = this.link;
    const parts = [
      state,
      `${(figures?.tick ?? 0).toFixed(0)} ms a tick`,
      `${(1000 * (figures?.ahead ?? 0)).toFixed(0)} ms ahead`,
      `${(figures?.loudness ?? 0).toFixed(1)} LUFS ${(figures?.gain ?? 0).toFixed(1)} dB`,
      `${underruns} underruns`,
    ];
    element("figures").textContent = parts.join(" · ");
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
      this.shown.set(`${widget.node} ${widget.input}`, made);
    }
  }
}
