// Settings, commands and keys of the extension.

import type { Comfy, Node } from "./comfy.ts";
import { openMenu } from "./menu.ts";
import type { Sessions } from "./sessions.ts";
import { worded } from "./words.ts";

/** The Live Session that a command means: the only one, one that plays, or the selected. */
function meant(comfy: Comfy, sessions: Sessions): Node | null {
  const all = [...sessions.nodes()];
  const chosen = all.filter(([node]) => comfy.selection.includes(node));
  const playing = all.filter(([, link]) => link?.playing);
  const found = [all, chosen, playing].find((some) => some.length === 1)?.[0]?.[0];
  if (!found) {
    comfy.tell(
      all.length
        ? worded("Select one of the Live Session nodes, for there are several.")
        : worded("The workflow has no Live Session node."),
      true,
    );
  }
  return found ?? null;
}

/** Offers the widgets of the selected node in a menu: what its own menu has, for keys. */
function learn(comfy: Comfy, sessions: Sessions): void {
  const choices = comfy.selection.flatMap((node) => sessions.choices(node));
  if (choices.length) openMenu(innerWidth / 2 - 120, innerHeight / 3, choices);
  else comfy.tell(worded("Select a node whose widgets turn a live session that has been run."), true);
}

export function commandsOf(comfy: Comfy, sessions: Sessions): Record<string, unknown> {
  const act = (call: (node: Node) => unknown) => () => {
    const node = meant(comfy, sessions);
    if (node) void call(node);
  };
  const commands = [
    {
      id: "Ostinato.Play",
      label: "Ostinato: play or pause",
      icon: "pi pi-play",
      function: act((node) =>
        sessions.link(node)?.playing ? sessions.link(node)!.player.pause() : sessions.start(node),
      ),
    },
    { id: "Ostinato.Stop", label: "Ostinato: stop", icon: "pi pi-stop", function: act((node) => sessions.stop(node)) },
    {
      id: "Ostinato.Panic",
      label: "Ostinato: silence everything",
      icon: "pi pi-volume-off",
      function: () => sessions.panic(),
    },
    {
      id: "Ostinato.Capture",
      label: "Ostinato: capture what was heard",
      icon: "pi pi-save",
      function: act((node) => sessions.capture(node)),
    },
    {
      id: "Ostinato.Record",
      label: "Ostinato: record, or end the recording",
      icon: "pi pi-circle-fill",
      function: act((node) => sessions.record(node)),
    },
    {
      id: "Ostinato.Learn",
      label: "Ostinato: learn a controller for a widget of the selected node",
      icon: "pi pi-sliders-h",
      function: () => learn(comfy, sessions),
    },
  ];
  const keys = { Play: "p", Stop: "s", Panic: "x", Capture: "c", Record: "r", Learn: "l" };
  return {
    commands,
    keybindings: Object.entries(keys).map(([name, key]) => ({
      commandId: `Ostinato.${name}`,
      combo: { key, alt: true, shift: true },
    })),
    menuCommands: [{ path: ["Extensions", "Ostinato"], commands: commands.map(({ id }) => id) }],
    settings: [
      {
        id: "Ostinato.LiveKnobs",
        category: ["Ostinato", "Live", "Knobs"],
        name: "Widgets above a Live Session act at once",
        tooltip: "Without it the next run takes them in.",
        type: "boolean",
        defaultValue: true,
      },
      {
        id: "Ostinato.CaptureSeconds",
        category: ["Ostinato", "Live", "Capture"],
        name: "Seconds that Capture keeps",
        type: "slider",
        attrs: { min: 5, max: 60, step: 5 },
        defaultValue: 30,
      },
    ],
  };
}
