// The connection, in a thread of its own: a busy page holds up neither sound nor knobs.

import { type At, readBlock, VERSION } from "./protocol.ts";
import { peaksOf } from "./waveform.ts";

const PAUSES = [250, 500, 1000, 2000, 4000]; // milliseconds before another try

let url = "";
let socket: WebSocket | null = null;
let player: MessagePort | "page" | null = null; // who plays; null before the user starts
let early: unknown[] = []; // sound that came before; a server sends little until somebody says where it is
let session = "";
let at: At = { epoch: 0, position: 0, lead: 0, moving: false, underruns: 0 };
let fresh = 0; // end of the newest sound that the player has
let bytes = 0;
let tries = 0;
const waiting = new Map<string, string>(); // messages while there is no connection: the last of each widget or command

function tell(message: unknown, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

function toPlayer(data: ArrayBuffer | { epoch: number; position: number }): void {
  const transfer = data instanceof ArrayBuffer ? [data] : [];
  if (!player) {
    if (!(data instanceof ArrayBuffer)) early = [];
    early.push(data);
  } else if (player === "page") tell({ type: "sound", data }, transfer);
  else player.postMessage(data, transfer);
}

function playOn(who: MessagePort | "page"): void {
  player = who;
  for (const data of early) toPlayer(data as ArrayBuffer);
  early = [];
}

function connect(): void {
  const made = new WebSocket(url);
  made.binaryType = "arraybuffer";
  socket = made;
  bytes = 0;
  made.onopen = () =>
    made.send(JSON.stringify({ type: "hello", version: VERSION, session, epoch: at.epoch, position: fresh }));
  made.onmessage = ({ data }) => {
    if (typeof data === "string") receive(JSON.parse(data));
    else {
      bytes += data.byteLength;
      const block = readBlock(data);
      if (block) tell({ type: "peaks", peaks: peaksOf(block) });
      toPlayer(data);
    }
  };
  made.onclose = ({ reason }) => {
    if (socket !== made) return;
    socket = null;
    tell({ type: "closed", reason });
    setTimeout(connect, PAUSES[Math.min(tries++, PAUSES.length - 1)]);
  };
}

function receive(message: {
  type: string;
  session?: string;
  resumed?: boolean;
  epoch?: number;
  position?: number;
}): void {
  if (message.type === "welcome") {
    tries = 0;
    session = message.session!;
    if (!message.resumed) {
      fresh = message.position!;
      toPlayer({ epoch: message.epoch!, position: fresh });
    }
    tell(message);
    for (const text of waiting.values()) socket?.send(text);
    waiting.clear();
    return;
  }
  tell(message);
}

function send(message: Record<string, unknown>): void {
  const text = JSON.stringify(message);
  if (socket?.readyState === WebSocket.OPEN && session) socket.send(text);
  else if (message.type === "set") waiting.set(`${message.node} ${message.input}`, text);
  else waiting.set(message.type === "settings" ? "settings" : "command", text);
}

function report(now: At): void {
  at = now;
  if (socket?.readyState === WebSocket.OPEN && session) socket.send(JSON.stringify({ type: "at", ...now, bytes }));
}

self.onmessage = ({ data }) => {
  if (data.type === "connect") {
    url = data.url;
    connect();
  } else if (data.type === "player") {
    const port: MessagePort = data.port;
    port.onmessage = ({ data }) => {
      if (data.at) report(data.at);
      else fresh = data.fresh;
    };
    playOn(port);
  } else if (data.type === "page") {
    playOn("page");
  } else if (data.type === "at") {
    fresh = data.fresh;
    report(data.at);
  } else if (data.type === "send") {
    send(data.message);
  }
};
