"""Every template as it opens in a window of 1600 x 950: large enough to read, nothing over another, nothing red.

The pictures lie in the folder that OSTINATO_SHOTS names, else in pytest's.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from ..examples import ALL, FOLDER
from .editor import CANVASES, PATIENCE, Editor, Host, frontends, version
from .object_info import object_info

pytestmark = pytest.mark.browser
FRONTENDS = frontends() or [None]
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


@pytest.fixture(scope="module", params=FRONTENDS, ids=lambda path: version(path) if path else "none")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if request.param is None:
        pytest.skip("no frontend: pip install comfyui-frontend-package, or set OSTINATO_FRONTENDS")
    made = Host(request.param, tmp_path_factory.mktemp("host"))
    made.start()
    made.name = version(request.param)
    yield made
    made.stop()


@pytest.fixture(params=CANVASES, ids=str)
def editor(
    request: pytest.FixtureRequest, browser: Any, host: Host, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Editor]:
    context = browser.new_context(viewport={"width": 1600, "height": 950})
    page = context.new_page()
    monkeypatch.syspath_prepend(str(FOLDER.parent / "scripts"))
    graphs = runpy.run_path(str(FOLDER.parent / "scripts" / "graphs.py"))
    core = [type(s.node_id, (), {"GET_SCHEMA": classmethod(lambda cls, s=s: s)}) for s in graphs["CORE"]]

    def known(route: Any) -> None:
        """The nodes of ComfyUI's own that some templates have, and the clip that the pack puts in place."""
        info = route.fetch().json() | object_info(core, "nodes")
        info["LoadAudio"]["input"]["required"]["audio"] = [[graphs["CLIP"]], {"audio_upload": True}]
        route.fulfill(json=info)

    page.route("**/object_info", known)
    made = Editor(page, host, CANVASES[request.param])
    made.canvas = request.param
    yield made
    context.close()


def over(a: list[float], b: list[float]) -> bool:
    """Whether two boxes cover each other by more than a pixel."""
    return all(a[i] + a[i + 2] > b[i] + 1 and b[i] + b[i + 2] > a[i] + 1 for i in (0, 1))


def test_templates_open_readable(editor: Editor, host: Host, tmp_path: Path) -> None:
    folder = Path(os.environ.get("OSTINATO_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    editor.open()
    problems, told = [], {}
    for path in ALL:
        graph = json.loads(path.read_text("utf-8"))
        open_it = "(graph) => window.app.loadGraphData(graph, true, true, null, { openSource: 'template' })"
        editor.page.evaluate(open_it, graph)
        editor.page.wait_for_function(
            "(count) => window.app.graph.nodes.length === count", arg=len(graph["nodes"]), timeout=PATIENCE
        )
        editor.page.wait_for_timeout(1000)  # elements take their place, and the view moves to them
        scale = editor.page.evaluate("() => window.app.canvas.ds.scale")
        boxes = editor.page.evaluate(BOXES, editor.nodes2)
        editor.page.screenshot(path=folder / f"{host.name}-{editor.canvas}-{path.stem}.png")
        covered = [f"{a} and {b}" for (a, one), (b, other) in combinations(boxes, 2) if over(one, other)]
        wrong = editor.page.evaluate(WRONG)
        told[path.stem] = round(scale, 2)
        problems += [f"{path.stem}: scale {scale:.2f}"] * (scale < LEAST)
        problems += [f"{path.stem}: {text}" for text in (*covered, *wrong)]
    assert not problems, f"{told}\n" + "\n".join(problems)
