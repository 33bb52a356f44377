// A player and a download for every clip of a batch; the editor's own player has the first alone.

import { addElement, type Comfy, fromPack, grow, type Node, type Output } from "./comfy.ts";
import { worded } from "./words.ts";

const ROW = 46; // pixels
const MOST = 4; // rows without a scroll bar

interface Clip {
  filename: string;
  subfolder: string;
  type: string;
}

const boxes = new WeakMap<Node, { root: HTMLElement; count: number }>();

export function showClips(comfy: Comfy, node: Node, output: Output): void {
  const clips = (output.audio ?? []) as Clip[];
  const known = boxes.get(node);
  if (!known && (clips.length < 2 || !fromPack(node))) return;
  const box = known ?? { root: document.createElement("div"), count: 0 };
  box.count = clips.length;
  if (!known) {
    box.root.className = "ostinato ostinato-clips";
    boxes.set(node, box);
    addElement(node, "ostinato_clips", box.root, () => ROW * Math.min(MOST, box.count));
  }
  box.root.style.minHeight = `${ROW * Math.min(MOST, box.count)}px`;
  box.root.replaceChildren(...clips.map((clip, index) => row(comfy, clip, index + 1)));
  grow(node);
}

function row(comfy: Comfy, { filename, subfolder, type }: Clip, number: number): HTMLElement {
  const url = comfy.fileUrl(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  const made = document.createElement("div");
  const player = Object.assign(document.createElement("audio"), { controls: true, preload: "none", src: url });
  player.setAttribute("aria-label", worded("Clip %1, %2", number, filename));
  const link = Object.assign(document.createElement("a"), {
    href: url,
    download: filename,
    textContent: worded("Download"),
  });
  link.title = filename;
  made.append(`${number}`, player, link);
  return made;
}
