// The set of a live session in the canvas: when its changes act and its controllers, kept with the node in the workflow;
// and whether it is still wired as what plays.

import { everyBeat } from "./clock.ts";
import type { Comfy } from "./comfy.ts";
import type { Link } from "./link.ts";
import { readMap } from "./midi.ts";
import type { Value, Widget } from "./protocol.ts";
import { readWhen, type When } from "./quantise.ts";
import { Signals } from "./signals.ts";
import { wiringOf } from "./wiring.ts";

const LOOK = 1000; // milliseconds between two looks at the wiring
const PROPERTY = "ostinato"; // of a Live Session node; `ostinato live` reads and writes the same

export class LiveSet {
  readonly signals: Signals;
  private kept = "";
  private played: string; // the wiring of the run that plays
  private looked = 0;
  private readonly end: () => void;

  /**
   * @param id of the Live Session node
   * @param turn gives a widget a value, in the canvas too
   * @param rewired told again and again whether nodes or links have changed since the last run
   */
  constructor(
    private readonly comfy: Comfy,
    private readonly id: string,
    private readonly link: Link,
    turn: (widget: Widget, value: Value) => void,
    rewired: (yes: boolean) => void,
  ) {
    this.signals = new Signals(
      link,
      turn,
      () => this.keep(),
      (text) => link.say(text),
    );
    this.read();
    this.played = this.wiring;
    this.end = everyBeat((now) => {
      if (now - this.looked < LOOK) return;
      this.looked = now;
      rewired(this.wiring !== this.played);
    });
  }

  close(): void {
    this.end();
    this.signals.close();
  }

  /** The graph was run as it is. */
  ran(): void {
    this.played = this.wiring;
  }

  private get wiring(): string {
    const chain = this.comfy.chain(this.id);
    return chain ? wiringOf(chain) : "";
  }

  /** Takes what the workflow has, which an undo may have changed. */
  read(): void {
    const text = JSON.stringify(this.comfy.chain(this.id)?.at(-1)?.properties?.[PROPERTY] ?? {});
    if (text === this.kept) return;
    this.kept = text;
    const { when, midi } = JSON.parse(text);
    this.link.when = readWhen(when);
    void this.signals.use(readMap(midi));
  }

  set when(when: When) {
    this.link.when = when;
    this.keep();
  }

  private keep(): void {
    const settings = { when: this.link.when, midi: this.signals.midi.map };
    this.kept = JSON.stringify(settings);
    const node = this.comfy.chain(this.id)?.at(-1);
    if (!node) return;
    this.comfy.change(() => {
      node.properties[PROPERTY] = JSON.parse(this.kept);
    });
  }
}
