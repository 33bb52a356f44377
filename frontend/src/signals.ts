// MIDI controllers and gamepads at work on one session. Permission is asked when something is to be learned, or when a
// map that needs it begins to play.

import { Gamepads, Learner } from "./gamepad.ts";
import type { Link } from "./link.ts";
import type { Choice } from "./menu.ts";
import { type Binding, Midi, missingDevices } from "./midi.ts";
import type { Value, Widget } from "./protocol.ts";
import { worded } from "./words.ts";

const LOOK = 16; // milliseconds between two looks at gamepads

const KINDS: Record<Binding["kind"], (number: number, channel: number) => string> = {
  cc: (number, channel) => worded("controller %1 of channel %2", number, channel + 1),
  note: (number, channel) => worded("note %1 of channel %2", number, channel + 1),
  axis: (number) => worded("axis %1", number),
  button: (number) => worded("button %1", number),
};

/** What a user reads of a binding. */
export function described({ kind, number, channel, device, mode }: Binding): string {
  return `${KINDS[kind](number, channel)}${mode === "absolute" ? "" : ` (${mode})`}${device ? `, ${device}` : ""}`;
}

export class Signals {
  readonly midi: Midi;
  private readonly pads: Gamepads;
  private access: MIDIAccess | null = null;
  private looking = 0;
  private learner = new Learner([]);

  /**
   * @param turn gives a widget a value
   * @param changed told the map when it has changed
   * @param say shows a sentence
   */
  constructor(
    link: Link,
    turn: (widget: Widget, value: Value) => void,
    private readonly changed: (map: Binding[]) => void,
    private readonly say: (text: string) => void,
  ) {
    const find = (node: string, input: string) =>
      link.widgets.find((widget) => widget.node === node && widget.input === input);
    this.midi = new Midi([], find, turn, (made) => {
      if (made) this.say(`${made.input.replaceAll("_", " ")}: ${described(made)}`);
      this.changed(this.midi.map);
    });
    this.pads = new Gamepads(find, turn);
  }

  /** Takes a map; opens devices where the user allowed that before. */
  async use(map: Binding[]): Promise<void> {
    this.midi.map = map;
    if (!map.length) return;
    this.look();
    const query = { name: "midi" } as unknown as PermissionDescriptor;
    const allowed = await navigator.permissions?.query(query).catch(() => null);
    if (allowed?.state === "granted") await this.open();
  }

  /** Asks for MIDI devices, where the map has any; called when the user plays. */
  async wake(): Promise<void> {
    if (this.midi.map.some(({ kind }) => kind === "cc" || kind === "note")) await this.open();
  }

  /** Waits for a controller, key, axis or button for this widget. */
  async learn(widget: Widget): Promise<void> {
    this.midi.learn(widget);
    this.look(); // before the user is asked: where things rest is known when they move
    this.learner = new Learner(navigator.getGamepads?.() ?? []);
    this.say(worded("Move a controller, or strike a key, for %1; Escape ends it.", widget.input.replaceAll("_", " ")));
    await this.open();
  }

  /** What a menu offers for a widget; nothing for a text or a curve. */
  choices(widget: Widget): Choice[] {
    if (widget.kind === "text" || widget.kind === "curve") return [];
    const bound = this.bindingOf(widget);
    const found: Choice[] = [{ text: worded("Learn a controller"), act: () => void this.learn(widget) }];
    if (bound) {
      found.push({
        text: worded("Forget %1", described(bound)),
        act: () => this.midi.forget(widget.node, widget.input),
      });
    }
    return found;
  }

  /** Listens no more. */
  close(): void {
    for (const input of this.access?.inputs.values() ?? []) input.onmidimessage = null;
    if (this.access) this.access.onstatechange = null;
    window.clearInterval(this.looking);
  }

  cancel(): void {
    if (!this.midi.waits) return;
    this.midi.cancel();
    this.say("");
  }

  private async open(): Promise<void> {
    if (this.access) return;
    if (!window.isSecureContext || !navigator.requestMIDIAccess) {
      this.say(
        worded("Only a secure address has MIDI, such as http://localhost, in a browser that knows it; gamepads play."),
      );
      return;
    }
    try {
      this.access = await navigator.requestMIDIAccess();
    } catch {
      this.say(worded("The browser gives no MIDI devices; allow them for this page in its settings."));
      return;
    }
    this.access.onstatechange = () => this.listen();
    this.listen();
    const away = missingDevices(this.midi.map, this.names());
    if (away.length) this.say(worded("Not connected: %1", away.join(", ")));
  }

  private names(): string[] {
    return [...(this.access?.inputs.values() ?? [])].map(({ name }) => name ?? "");
  }

  private listen(): void {
    for (const input of this.access!.inputs.values()) {
      input.onmidimessage = ({ data }) => {
        if (data) this.midi.take(data, input.name ?? "");
      };
    }
  }

  /** Looks at gamepads as long as there is a use for it. */
  private look(): void {
    if (this.looking || !navigator.getGamepads) return;
    this.pads.look(navigator.getGamepads(), this.midi.map);
    this.looking = window.setInterval(() => {
      const pads = navigator.getGamepads();
      const widget = this.midi.waits;
      const meant = widget && this.learner.meant(pads);
      if (widget && meant) {
        this.midi.cancel();
        this.midi.bind(widget, meant);
      }
      this.pads.look(pads, this.midi.map);
      if (widget || this.midi.map.some(({ kind }) => kind === "axis" || kind === "button")) return;
      window.clearInterval(this.looking);
      this.looking = 0;
    }, LOOK);
  }

  /** The binding of a widget. */
  bindingOf(widget: Pick<Widget, "node" | "input">): Binding | undefined {
    return this.midi.map.find(({ node, input }) => node === widget.node && input === widget.input);
  }
}
