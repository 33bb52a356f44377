// Plays a live session on a page: an AudioWorklet where the page may have one, else buffers laid end to end.

import { type At, type FromServer, RATE, readBlock } from "./protocol.ts";
import { type Mark, Ring } from "./ring.ts";
import type { Peaks } from "./waveform.ts";

declare const WORKLET_SOURCE: string;
declare const WORKER_SOURCE: string;

const VOLUME = "ostinato.volume"; // keys of the page's storage
const PLAYING = "ostinato.playing "; // and the address
const SLOW = "ostinato.slow"; // the device did not follow with the usual buffers
// Seconds that the device's buffers are asked to last: those of 2.7 ms, which a browser may have, run empty once or twice a
// minute on two busy cores of a virtual machine; those of 10 ms did not.
const BUFFER = 0.01;
const LARGE_BUFFER = 0.04;
const PIECE = 2048; // samples of one buffer of the fallback
const WATCH = 1000; // milliseconds between two looks at the device
const CLICKS = 3; // underruns of the device between two looks from which on it does not follow

export type Heard = Mark & { when: number }; // performance time in milliseconds at which it left the speaker

export interface Listeners {
  message: (message: FromServer) => void;
  closed: (reason: string) => void;
  heard: (heard: Heard) => void;
  at: (at: At, ahead: number) => void;
  peaks: (peaks: Peaks) => void;
}

/** The volume of every session, which the browser remembers. */
export function readVolume(): number {
  const kept = Number(localStorage.getItem(VOLUME) ?? "0.8");
  return Number.isFinite(kept) ? Math.min(1, Math.max(0, kept)) : 0.8;
}

export function writeVolume(value: number): void {
  localStorage.setItem(VOLUME, String(value));
}

function blobUrl(source: string): string {
  return URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
}

export class Player {
  readonly worker = new Worker(blobUrl(WORKER_SOURCE));
  readonly plain = !window.isSecureContext || !("AudioWorkletNode" in window);
  context: AudioContext | null = null;
  gain: GainNode | null = null;
  private node: AudioWorkletNode | null = null;
  private ring: Ring | null = null;
  private until = 0; // context time up to which buffers are laid
  private opening: Promise<void> | null = null;
  private closed = false;
  private laying: ReturnType<typeof setInterval> | undefined;
  private watching: ReturnType<typeof setInterval> | undefined;

  constructor(
    private readonly url: string,
    private readonly listeners: Listeners,
  ) {
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.postMessage({ type: "connect", url });
  }

  /** Whether it played when the page was left. */
  get wasPlaying(): boolean {
    return sessionStorage.getItem(PLAYING + this.url) === "yes";
  }

  get volume(): number {
    return readVolume();
  }

  set volume(value: number) {
    writeVolume(value);
    this.fade(value);
  }

  get latency(): number {
    return this.context ? this.context.baseLatency + (this.context.outputLatency || 0) : 0;
  }

  /** Sounds, once the browser lets it: call it from a click or a key. False where it waits for one. */
  async start(): Promise<boolean> {
    this.opening ??= this.open();
    await this.opening;
    if (this.closed) return false;
    const context = this.context!;
    await Promise.race([context.resume(), new Promise((done) => setTimeout(done, 500))]);
    if (context.state !== "running") return false;
    sessionStorage.setItem(PLAYING + this.url, "yes");
    this.fade(this.volume);
    this.play(true);
    this.send({ type: "start" });
    return true;
  }

  pause(): void {
    this.end({ type: "pause" });
  }

  stop(): void {
    this.end({ type: "stop" });
  }

  /** Ends the connection and the sound; what the page knows of whether it played stays. */
  close(): void {
    this.closed = true;
    this.worker.terminate();
    clearInterval(this.laying);
    clearInterval(this.watching);
    void this.context?.close();
  }

  send(message: Record<string, unknown>): void {
    this.worker.postMessage({ type: "send", message });
  }

  private end(message: Record<string, unknown>): void {
    sessionStorage.removeItem(PLAYING + this.url);
    this.fade(0);
    this.play(false);
    this.send(message);
  }

  private fade(value: number): void {
    this.gain?.gain.setTargetAtTime(value, this.context!.currentTime, 0.01);
  }

  private play(playing: boolean): void {
    this.node?.port.postMessage({ type: "play", playing });
    if (this.ring) this.ring.playing = playing;
  }

  private async open(): Promise<void> {
    const latencyHint = sessionStorage.getItem(SLOW) ? LARGE_BUFFER : BUFFER;
    const context = new AudioContext({ sampleRate: RATE, latencyHint });
    this.context = context;
    if (latencyHint === BUFFER) this.watch(context);
    this.gain = context.createGain();
    this.gain.gain.value = 0;
    this.gain.connect(context.destination);
    if (this.plain) {
      this.ring = new Ring();
      this.worker.postMessage({ type: "page" });
      this.laying = setInterval(() => this.lay(), 10);
      return;
    }
    try {
      await context.audioWorklet.addModule(blobUrl(WORKLET_SOURCE));
    } catch (error) {
      if (!this.closed) throw error; // a workflow that is left at once closes the context before
    }
    if (this.closed) return;
    this.node = new AudioWorkletNode(context, "ostinato-player", { numberOfInputs: 0, outputChannelCount: [2] });
    this.node.connect(this.gain);
    this.node.port.onmessage = ({ data }) => {
      if (data.type === "heard") this.listeners.heard({ ...data, when: this.earTime(data.time) });
      else this.listeners.at(data.at, data.ahead);
    };
    const { port1, port2 } = new MessageChannel();
    this.node.port.postMessage({ type: "worker", port: port1 }, [port1]);
    this.worker.postMessage({ type: "player", port: port2 }, [port2]);
  }

  /** Notes for a reload that the device does not follow, in browsers that tell. */
  private watch(context: AudioContext & { playbackStats?: { underrunEvents: number } }): void {
    let before = 0;
    this.watching = setInterval(() => {
      const events = context.playbackStats?.underrunEvents ?? 0;
      if (events - before >= CLICKS) sessionStorage.setItem(SLOW, "yes");
      before = events;
    }, WATCH);
  }

  /** When a sample of this context time is heard, in performance time. */
  private earTime(time: number): number {
    const { contextTime, performanceTime } = this.context!.getOutputTimestamp();
    if (contextTime === undefined || performanceTime === undefined || contextTime === 0) {
      return performance.now() + 1000 * (time - this.context!.currentTime + this.latency);
    }
    return performanceTime + 1000 * (time - contextTime);
  }

  private receive(
    data:
      | FromServer
      | { type: "closed"; reason: string }
      | { type: "sound"; data: unknown }
      | { type: "peaks"; peaks: Peaks },
  ): void {
    if (data.type === "closed") this.listeners.closed(data.reason);
    else if (data.type === "peaks") this.listeners.peaks(data.peaks);
    else if (data.type === "sound") this.sound(data.data as ArrayBuffer | { epoch: number; position: number });
    else this.listeners.message(data);
  }

  // --- without a worklet: the page takes the sound from the worker and lays it as buffers ---

  private sound(data: ArrayBuffer | { epoch: number; position: number }): void {
    if (!this.ring) return;
    if (data instanceof ArrayBuffer) {
      const block = readBlock(data);
      if (block) this.ring.take(block);
    } else {
      this.ring.flush(data.epoch, data.position);
    }
    this.tellWorker();
  }

  private lay(): void {
    const { context, ring } = this;
    if (!context || !ring || context.state !== "running") return;
    while (this.until < context.currentTime + 0.1) {
      const buffer = context.createBuffer(2, PIECE, RATE);
      const begin = ring.read;
      const marks = ring.play(buffer.getChannelData(0), buffer.getChannelData(1));
      this.until = Math.max(this.until, context.currentTime + 0.02);
      for (const mark of marks) {
        const time = this.until + Math.max(0, mark.at - begin) / RATE;
        this.listeners.heard({ ...mark, when: this.earTime(time) });
      }
      const source = context.createBufferSource();
      source.buffer = buffer;
      source.connect(this.gain!);
      source.start(this.until);
      this.until += PIECE / RATE;
    }
    this.tellWorker();
    this.listeners.at(ring.at(), ring.end - ring.read);
  }

  private tellWorker(): void {
    this.worker.postMessage({ type: "at", at: this.ring!.at(), fresh: this.ring!.fresh });
  }
}
