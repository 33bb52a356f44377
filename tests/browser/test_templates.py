"""Every template as it opens in a window of 1600 x 950: large enough to read, nothing over another, nothing red.

Pictures of them are made where OSTINATO_SHOTS names a folder.
"""

from __future__ import annotations

import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ostinato.scripts.graphs import CLIP, CORE

from ..examples import ALL
from .editor import PATIENCE, Editor
from .object_info import object_info

pytestmark = pytest.mark.browser
LEAST = 0.6  # of the scale, below which nodes are grey boxes or too small to read

# What lies where, in pixels at scale 1: a node's whole box in the classic canvas, its element in Nodes 2.0.
BOXES = """(nodes2) => {
  const { canvas, graph } = window.app;
  const box = (node) => {
    if (!nodes2) return [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30];
    const { left, top, width, height } = document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect();
    return [left, top, width, height].map((pixels) => pixels / canvas.ds.scale);
  };
  return graph.nodes.map((node) => [`${node.id} ${node.type}`, box(node)]);
}"""
# Waits until the view and the nodes stay where they are for a few frames.
STILL = f"""async (nodes2) => {{
  let before = "";
  for (let frames = 0; frames < 5; ) {{
    await new Promise(requestAnimationFrame);
    const now = JSON.stringify([window.app.canvas.ds.scale, ({BOXES})(nodes2)]);
    frames = now === before ? frames + 1 : 0;
    before = now;
  }}
}}"""
# Nodes that the editor does not know, that it marks, and choosers whose value is no choice of theirs. Load Engine names
# the engine that another template builds; until then the torch engine plays.
WRONG = """() => window.app.graph.nodes.flatMap((node) => [
  ...(window.LiteGraph.registered_node_types[node.type] ? [] : [`${node.type} is unknown`]),
  ...(node.has_errors ? [`${node.type} is marked`] : []),
  ...(node.widgets ?? [])
    .filter(({ type, options }) => type === "combo" && Array.isArray(options.values))
    .filter(({ options, value }) => node.type !== "OstinatoLoadEngine" && !options.values.includes(value))
    .map(({ name, value }) => `${node.type}.${name} is ${value}`),
])"""


@pytest.fixture
def templates(own_editor: Editor) -> Editor:
    """An editor that knows ComfyUI's own nodes that some templates have, and the clip that the pack puts in place."""
    core = [type(s.node_id, (), {"GET_SCHEMA": classmethod(lambda cls, s=s: s)}) for s in CORE]

    def known(route: Any) -> None:
        info = route.fetch().json() | object_info(core, "nodes")
        info["LoadAudio"]["input"]["required"]["audio"] = [[CLIP], {"audio_upload": True}]
        route.fulfill(json=info)

    own_editor.page.route("**/object_info", known)
    return own_editor


def over(a: list[float], b: list[float]) -> bool:
    """Whether two boxes cover each other by more than a pixel."""
    return all(a[i] + a[i + 2] > b[i] + 1 and b[i] + b[i + 2] > a[i] + 1 for i in (0, 1))


@pytest.mark.every_editor
def test_templates_open_readable(templates: Editor) -> None:
    editor, canvas = templates, "nodes2" if templates.nodes2 else "classic"
    if shots := os.environ.get("OSTINATO_SHOTS"):
        Path(shots).mkdir(parents=True, exist_ok=True)
    editor.open()
    problems, told = [], {}
    for path in ALL:
        graph = json.loads(path.read_text("utf-8"))
        open_it = "(graph) => window.app.loadGraphData(graph, true, true, null, { openSource: 'template' })"
        editor.page.evaluate(open_it, graph)
        editor.page.wait_for_function(
            "(count) => window.app.graph.nodes.length === count", arg=len(graph["nodes"]), timeout=PATIENCE
        )
        editor.page.evaluate(STILL, editor.nodes2)
        scale = editor.page.evaluate("() => window.app.canvas.ds.scale")
        boxes = editor.page.evaluate(BOXES, editor.nodes2)
        if shots:
            editor.page.screenshot(path=Path(shots, f"{editor.host.version}-{canvas}-{path.stem}.png"))
        covered = [f"{a} and {b}" for (a, one), (b, other) in combinations(boxes, 2) if over(one, other)]
        wrong = editor.page.evaluate(WRONG)
        told[path.stem] = round(scale, 2)
        problems += [f"{path.stem}: scale {scale:.2f}"] * (scale < LEAST)
        problems += [f"{path.stem}: {text}" for text in (*covered, *wrong)]
    assert not problems, f"{told}\n" + "\n".join(problems)
