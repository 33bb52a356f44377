// The extension: what the editor's hooks and the server's messages set off.

import { showClips } from "./clips.ts";
import { addElement, Comfy, grow, type Node, type Output, ours, typeOf, whenRemoved } from "./comfy.ts";
import { commandsOf } from "./commands.ts";
import { CurveEditor } from "./curve.ts";
import { note, noteOutput, restore } from "./notes.ts";
import css from "./ostinato.css";
import { PANEL_HEIGHT } from "./panel.ts";
import { LIVE, Sessions } from "./sessions.ts";
import { speak } from "./words.ts";

interface Executed {
  node: string;
  output: Output & { ostinato_live?: { session: string }[] };
}

/** @param base the address of ComfyUI's page */
export async function register(base: string): Promise<void> {
  const comfy = await Comfy.load(base);
  speak(await comfy.words());
  const sessions = new Sessions(comfy);
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  comfy.register({
    name: "Ostinato",
    ...commandsOf(comfy, sessions),
    nodeCreated: (node: Node) => created(sessions, node),
    getNodeMenuItems: (node: Node) => sessions.menu(node),
    loadedGraphNode: (node: Node) => ours(node) && restore(comfy, node),
    afterConfigureGraph: () => {
      void sessions.missing();
      return sessions.find();
    },
    onNodeOutputsUpdated: (outputs: Record<string, Output>) => {
      for (const [place, output] of Object.entries(outputs)) {
        const node = comfy.located(place);
        if (node && output) shown(comfy, node, output);
      }
    },
  });
  comfy.on<Executed>("executed", ({ node: id, output }) => {
    const node = comfy.chain(id)?.at(-1);
    if (!node || !output) return;
    shown(comfy, node, output);
    const name = output.ostinato_live?.[0]?.session;
    if (name && name === sessions.nameOf(node)) sessions.ran(name);
  });
  comfy.on<{ node: string; text: string }>("ostinato.text", ({ node: id, text }) => {
    const node = comfy.chain(id)?.at(-1);
    if (node && ours(node)) note(comfy, node, "text", text);
  });
  for (const kind of ["execution_error", "execution_interrupted"]) comfy.on(kind, () => sessions.failed());
  addEventListener("keydown", ({ key }) => key === "Escape" && sessions.cancel(), true);
  Object.assign(window, { ostinato: sessions });
}

function created(sessions: Sessions, node: Node): void {
  if (!ours(node)) return;
  if (typeOf(node) === LIVE) {
    addElement(node, "ostinato_panel", sessions.panel(node).root, () => PANEL_HEIGHT);
    whenRemoved(node, () => sessions.removed());
    grow(node);
  }
  const curve = node.widgets?.find((widget) => widget.type === "curve");
  if (curve) {
    curve.hidden = true;
    curve.options.hidden = true;
    const editor = new CurveEditor(node, curve, () => sessions.linkAbove(node));
    whenRemoved(node, editor.end);
  }
}

function shown(comfy: Comfy, node: Node, output: Output): void {
  noteOutput(comfy, node, output);
  showClips(comfy, node, output);
}
