// The audio thread: plays the ring and says where it is. Blocks come from the worker, without passing the page.

import { readBlock } from "./protocol.ts";
import { Ring } from "./ring.ts";

declare const currentTime: number;
declare const sampleRate: number;
declare function registerProcessor(name: string, processor: unknown): void;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

const REPORT = 4096; // samples between two reports; the server reckons on from the last one for three times as long

class Player extends AudioWorkletProcessor {
  private readonly ring = new Ring();
  private worker: MessagePort | null = null;
  private since = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data.type === "worker") {
        this.worker = data.port as MessagePort;
        this.worker.onmessage = (event) => this.take(event.data);
      } else if (data.type === "play") {
        this.ring.playing = data.playing;
      }
    };
  }

  private take(data: ArrayBuffer | { epoch: number; position: number }): void {
    if (data instanceof ArrayBuffer) {
      const block = readBlock(data);
      if (block) this.ring.take(block);
    } else {
      this.ring.flush(data.epoch, data.position);
    }
    this.worker?.postMessage({ fresh: this.ring.fresh });
  }

  process(_inputs: unknown, outputs: Float32Array[][]): boolean {
    const [left, right] = outputs[0]!;
    const begin = this.ring.read;
    const { moving, lead } = this.ring;
    for (const mark of this.ring.play(left!, right!)) {
      this.port.postMessage({ type: "heard", ...mark, time: currentTime + Math.max(0, mark.at - begin) / sampleRate });
    }
    this.since += left!.length;
    if (this.since >= REPORT || moving !== this.ring.moving || lead !== this.ring.lead) {
      this.since = 0;
      const at = this.ring.at();
      this.worker?.postMessage({ at });
      this.port.postMessage({ type: "at", at, ahead: this.ring.end - this.ring.read });
    }
    return true;
  }
}

registerProcessor("ostinato-player", Player);
