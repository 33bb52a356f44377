// The wire format of a live connection; engine_runtime/serve/messages.py says what each message means.

import type { Binding } from "./midi.ts";
import type { When } from "./quantise.ts";

export const VERSION = 1;
export const RATE = 48_000;
export const HEADER = 40; // bytes

/** A piece of sound as it arrives: int16 pairs behind a header. */
export interface Block {
  epoch: number;
  position: number;
  hot: number;
  slot: number;
  at: number;
  pcm: Int16Array;
}

export type Value = number | boolean | string | { points: [number, number][]; interpolation: string };

export interface Widget {
  node: string;
  title: string;
  input: string;
  kind: "number" | "whole" | "toggle" | "choice" | "text" | "curve";
  value: Value;
  help: string;
  cost: "tick" | "slot" | "ring"; // what turning it takes as a rule
  min?: number;
  max?: number;
  step?: number;
  options?: (string | number)[];
  multiline?: boolean;
}

/** What belongs to a set beside its values. */
export interface Settings {
  when: When;
  midi: Binding[];
}

/** A thing that the workflow names and the server's machine does not have. */
export interface Missing {
  node: string;
  title: string;
  kind: string;
  name: string;
  reason: string;
}

export function missingText({ kind, title, reason }: Missing): string {
  return `${title} (${kind}): ${reason}`;
}

export type FromServer =
  | {
      type: "welcome";
      session: string;
      state: string;
      epoch: number;
      position: number;
      resumed: boolean;
      widgets: Widget[];
      settings?: Settings; // where the server has the workflow's file
      missing?: Missing[];
    }
  | { type: "widgets"; widgets: Widget[] } // of another run of the graph
  | { type: "taken"; id: number; change: number; cost: string; error: string | null }
  | { type: "refused" | "failed"; error: string }
  | { type: "captured"; id: number; files: string[]; error?: string }
  | { type: "queued"; id: number; node: string; input: string; position: number }
  | { type: "recording"; id: number; on: boolean; file: string; error?: string }
  | Figures;

/** What the session tells four times a second; tick, finished, depth and slots come once its ring is open. */
export interface Figures {
  type: "figures";
  state: string;
  mode: string;
  error: string | null;
  ahead: number; // seconds
  decode: number;
  window: number;
  loudness: number; // LUFS
  gain: number; // dB
  limited: number;
  dry: number;
  resting: boolean; // the memory is given back; it goes on with the next start
  length: number; // seconds of one generation
  budget: number; // milliseconds
  recording: [file: string, seconds: number] | null;
  dropped: number;
  underruns: number;
  tick?: number; // milliseconds
  finished?: number;
  depth?: number;
  slots?: [done: number, steps: number][];
}

/** Where the listener is. `moving` is false while it waits for sound. */
export interface At {
  epoch: number;
  position: number;
  lead: number;
  moving: boolean;
  underruns: number;
}

/** Reads a frame; null for one of another version, or cut off. */
export function readBlock(data: ArrayBuffer): Block | null {
  if (data.byteLength < HEADER || (data.byteLength - HEADER) % 4) return null;
  const view = new DataView(data);
  if (view.getUint8(0) !== VERSION) return null;
  const [position, hot, slot, at] = [8, 16, 24, 32].map((offset) => Number(view.getBigUint64(offset, true)));
  return {
    epoch: view.getUint32(4, true),
    position: position!,
    hot: hot!,
    slot: slot!,
    at: at!,
    pcm: new Int16Array(data, HEADER),
  };
}
