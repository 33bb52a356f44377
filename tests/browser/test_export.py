"""The editor's JSON is read as the editor reads it: the real frontend loads a workflow and exports its API form, and
ours is equal, whatever is in it.

Where the frontends differ, the newest is followed: 1.43 takes no values from the nodes of subgraphs, so it is asked
only of workflows whose nodes hold none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from ostinato.cli.core_nodes import CORE_NODES
from ostinato.cli.graph import catalogue
from ostinato.cli.workflow import parse
from ostinato.nodes import NODES

from ..examples import ALL
from . import workflows
from .core import CORE
from .editor import BEGUN, PATIENCE, ComfyUI, Host
from .object_info import object_info

pytestmark = pytest.mark.browser
MORE = [*workflows.NODES, *CORE]
TYPES = catalogue([*NODES, *workflows.NODES], [*CORE_NODES, *CORE])
EXAMPLES = 60  # of each kind: a quarter of a second each, on a quiet core
QUIET = {"deferWarnings": True, "silentAssetErrors": True, "skipAssetScans": True}
QUIET |= {"showMissingNodesDialog": False, "showMissingModelsDialog": False}  # 1.43's
EXPORT = f"""async (workflow) => {{
  await window.app.loadGraphData(workflow, true, false, null, {json.dumps(QUIET)});
  try {{
    return (await window.app.graphToPrompt()).output;
  }} catch (error) {{
    return String(error);
  }}
}}"""
Prompt = dict[str, tuple[str, dict[str, Any]]]
seeded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # to make one smaller takes minutes
    suppress_health_check=list(HealthCheck),
)


class Frontend:
    """A page with the editor, which knows the pack's nodes, toys and core nodes."""

    def __init__(self, page: Any, host: Host | ComfyUI) -> None:
        self.page, self.new = page, not host.version.startswith("1.43")
        page.route("**/api/object_info", self._add)
        page.goto(host.address)
        page.wait_for_function(BEGUN, timeout=PATIENCE)
        page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")  # half the time

    def _add(self, route: Any) -> None:
        route.fulfill(json=route.fetch().json() | object_info(MORE, "nodes"))

    def export(self, workflow: dict[str, Any]) -> dict[str, Any] | str:
        """Return the API form, or the error of a workflow that the editor loads but cannot export."""
        return self.page.evaluate(EXPORT, workflow)


@pytest.fixture(scope="module")
def frontend(browser: Any, host: Host | ComfyUI) -> Iterator[Frontend]:
    context = browser.new_context()
    yield Frontend(context.new_page(), host)
    context.close()


def plain(prompt: dict[str, Any]) -> Prompt:
    """Return the type and the inputs of each node that is known, of what the editor adds nothing."""
    found = {}
    for node_id, node in prompt.items():
        if node["class_type"] in TYPES:
            known = TYPES[node["class_type"]]
            inputs = {name: _unwrapped(value) for name, value in node["inputs"].items() if known.input(name)}
            found[node_id] = node["class_type"], inputs
    return found


def _unwrapped(value: Any) -> Any:
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def sums(prompt: Prompt) -> Counter[int]:
    """Return what each node computes, whatever its id: the editor gives new ids where two graphs have the same."""
    known: dict[str, int] = {}

    def of(node_id: str) -> int:
        if node_id not in known:
            class_type, inputs = prompt.get(node_id, ("", {}))
            values = [(name, of_value(value)) for name, value in sorted(inputs.items())]
            known[node_id] = hash((class_type, repr(values)))
        return known[node_id]

    def of_value(value: Any) -> Any:
        linked = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        return (of(value[0]), value[1]) if linked else float(value) if isinstance(value, int) else value

    return Counter(of(node_id) for node_id in prompt)


def check(frontend: Frontend, workflow: dict[str, Any]) -> None:
    theirs = frontend.export(workflow)
    if isinstance(theirs, str):
        return  # a link from nowhere: the editor exports nothing, ours goes without
    ours, wanted = plain(parse(workflow, TYPES).to_api()), plain(theirs)
    if ours.keys() == wanted.keys():
        assert ours == wanted
    else:
        assert sums(ours) == sums(wanted), (ours, wanted)


def test_drawn_workflows(frontend: Frontend) -> None:
    @seeded
    @given(workflows.workflows(held=frontend.new))
    def run(workflow: dict[str, Any]) -> None:
        check(frontend, workflow)

    run()


def test_damaged_workflows(frontend: Frontend) -> None:
    @seeded
    @given(workflows.damaged(held=frontend.new))
    def run(workflow: dict[str, Any]) -> None:
        check(frontend, workflow)

    run()


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_shipped_workflows(frontend: Frontend, path: Path) -> None:
    check(frontend, json.loads(path.read_text("utf-8")))


def official() -> list[Path]:
    """List ComfyUI's own ACE-Step 1.5 templates."""
    try:
        import comfyui_workflow_templates_json as package
    except ImportError:
        return []
    folder = Path(package.__file__).parent / "templates"
    return sorted(folder.glob("audio_ace_step1_5*.json")) + sorted(folder.glob("audio_ace_step_1_5*.json"))


@pytest.mark.parametrize("path", official() or [None], ids=lambda path: path.stem if path else "none")
def test_official_templates(frontend: Frontend, path: Path | None) -> None:
    if path is None:
        pytest.skip("the official templates are not installed: pip install comfyui-workflow-templates-json")
    check(frontend, json.loads(path.read_text("utf-8")))
