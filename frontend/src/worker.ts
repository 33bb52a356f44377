// The connection, in a thread of its own: a busy page holds up neither sound nor knobs.

import { type At, VERSION } from "./protocol.ts";

const PAUSES = [250, 500, 1000, 2000, 4000]; // milliseconds before another try

let url = "";
let socket: WebSocket | null = null;
let player: MessagePort | null = null; // of the worklet; the page itself plays where there is none
let session = "";
let at: At = { epoch: 0, position: 0, lead: 0, moving: false, underruns: 0 };
let end = 0; // position up to which the player has sound
let bytes = 0;
let tries = 0;
const waiting = new Map<string, string>(); // messages while there is no connection: the last of each widget or command

function tell(message: unknown, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

function toPlayer(data: unknown, transfer: Transferable[] = []): void {
  if (player) player.postMessage(data, transfer);
  else tell({ type: "sound", data }, transfer);
}

function connect(): void {
  const made = new WebSocket(url);
  made.binaryType = "arraybuffer";
  socket = made;
  bytes = 0;
  made.onopen = () =>
    made.send(JSON.stringify({ type: "hello", version: VERSION, session, epoch: at.epoch, position: end }));
  made.onmessage = ({ data }) => {
    if (typeof data === "string") receive(JSON.parse(data));
    else {
      bytes += data.byteLength;
      toPlayer(data, [data]);
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
      end = message.position!;
      toPlayer({ epoch: message.epoch, position: end });
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
  else waiting.set(message.type === "set" ? `${message.node} ${message.input}` : "command", text);
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
    player = port;
    port.onmessage = ({ data }) => {
      if (data.at) report(data.at);
      else end = data.end;
    };
  } else if (data.type === "at") {
    end = data.end;
    report(data.at);
  } else if (data.type === "send") {
    send(data.message);
  }
};
