"""A workflow is written with the values of now and opens elsewhere as it was; what is not there is listed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.cli import share
from ostinato.cli.core_nodes import CORE_NODES, Folders, use_folders
from ostinato.cli.graph import Graph, Link, WorkflowError, catalogue
from ostinato.cli.live import share_of
from ostinato.cli.main import all_types
from ostinato.cli.share import read_settings, write_workflow
from ostinato.cli.workflow import load_json, parse
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.serve.messages import Binding, Settings
from ostinato.nodes.shared import host
from ostinato.nodes.shared.missing import missing

from .test_workflow import KNOB_VALUES, as_api, as_editor, dags, editor, knobs, raw, show, socket, subgraph
from .toy_nodes import TOYS

EXAMPLES = Path(share.__file__).resolve().parent.parent / "example_workflows"
TYPES = catalogue(TOYS, CORE_NODES)
PLAYED = Settings("bar", [Binding("4", "steps", "A desk", "cc", 0, 7, "absolute", 1.0, 64.0)])


def widgets(graph: Graph, **values: Any) -> list[dict[str, Any]]:
    """What a session lists of the nodes' constants, with other values of those that are named."""
    return [
        {"node": node.id, "input": name, "value": values.get(name, value)}
        for node in graph.nodes.values()
        for name, value in node.inputs.items()
        if not isinstance(value, Link)
    ]


@given(
    dags(),
    st.sampled_from([list, dict]),
    st.sampled_from([list, dict, "api"]),
    st.integers(1, 64),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8),
)
def test_values_come_back_and_nothing_else_changes(
    dag: list[dict[str, Any]], links: type, form: Any, steps: int, tags: str
) -> None:
    data = as_api(dag) if form == "api" else as_editor(dag, links, form, "fixed")
    before, kept = parse(data, TYPES), copy.deepcopy(data)
    made = write_workflow(data, TYPES, widgets(before, steps=steps, tags=tags), PLAYED)
    assert data == kept
    after = parse(json.loads(json.dumps(made)), TYPES)
    for node in before.nodes.values():
        want = {n: v for n, v in node.inputs.items() if isinstance(v, Link)}
        want |= {n: {"steps": steps, "tags": tags}.get(n, v) for n, v in node.inputs.items() if n not in want}
        assert after.nodes[node.id].inputs == want
    assert read_settings(made) == PLAYED and read_settings(data) == Settings()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_examples_are_written_as_they_are(path: Path, cache: None) -> None:
    types, data = all_types(), load_json(path)
    try:
        graph = parse(data, types)
    except WorkflowError:
        pytest.skip("it has nodes of ComfyUI alone")
    made = write_workflow(data, types, widgets(graph, seed=123, tags="strings"), PLAYED)
    assert parse(made, types).nodes.keys() == graph.nodes.keys() and read_settings(made) == PLAYED
    back = write_workflow(made, types, widgets(graph), Settings())
    assert parse(back, types) == graph


def test_a_value_is_set_where_it_comes_from() -> None:
    """A primitive, a widget that a subgraph shows, and one that only an inner node has."""
    inner = subgraph(
        "inner",
        [knobs(1, inputs=[socket("steps", "INT", 3, widget=True)])],
        [(2, 1, 0, -20, 0, "TOY"), (3, -10, 0, 1, 0, "INT")],
        ["steps"],
        ["toy"],
    )
    user = raw(5, "inner", [socket("steps", "INT", None, True)], ["TOY"], [12, "ode"])
    user["properties"] = {"proxyWidgets": [["-1", "steps"], ["1", "mode"]]}
    other = copy.deepcopy(user) | {"id": 7}
    primitive = raw(8, "PrimitiveNode", (), ["INT"], [5, "fixed"])
    fed = knobs(9, inputs=[socket("steps", "INT", 4, widget=True)])
    links = [[1, 5, 0, 6, 0, "TOY"], [4, 8, 0, 9, 0, "INT"]]
    data = editor([user, other, primitive, fed, show(6, 1)], links, definitions={"subgraphs": [inner]})
    graph = parse(data, TYPES)
    assert (graph.nodes["5:1"].inputs["steps"], graph.nodes["9"].inputs["steps"]) == (12, 5)
    turned = [
        {"node": "5:1", "input": "steps", "value": 33},
        {"node": "5:1", "input": "mode", "value": "sde"},
        {"node": "9", "input": "steps", "value": 44},
    ]
    after = parse(write_workflow(data, TYPES, turned, Settings()), TYPES).nodes
    assert (after["5:1"].inputs["steps"], after["5:1"].inputs["mode"], after["9"].inputs["steps"]) == (33, "sde", 44)
    assert (after["7:1"].inputs["steps"], after["7:1"].inputs["mode"]) == (12, "ode")
    twice = [{"node": node, "input": "tags", "value": text} for node, text in (("5:1", "a"), ("7:1", "b"))]
    with pytest.raises(InputError, match="tags of node 5:1"):
        write_workflow(data, TYPES, twice, Settings())


def test_a_widget_is_set_through_two_subgraphs() -> None:
    steps = [socket("steps", "INT", 3, widget=True)]
    inner = subgraph(
        "inner", [knobs(1, inputs=steps)], [(2, 1, 0, -20, 0, "TOY"), (3, -10, 0, 1, 0, "INT")], ["steps"], []
    )
    middle = raw(4, "inner", [socket("steps", "INT", 3, True)], ["TOY"], [7])
    middle["properties"] = {"proxyWidgets": [["-1", "steps"]]}
    outer = subgraph("outer", [middle], [(2, 4, 0, -20, 0, "TOY"), (3, -10, 0, 4, 0, "INT")], ["steps"], ["toy"])
    user = raw(5, "outer", [socket("steps", "INT", None, True)], ["TOY"], [12])
    user["properties"] = {"proxyWidgets": [["-1", "steps"]]}
    definitions = {"subgraphs": [outer, inner]}
    data = editor([user, show(6, 1)], [[1, 5, 0, 6, 0, "TOY"]], definitions=definitions)
    assert parse(data, TYPES).nodes["5:4:1"].inputs["steps"] == 12
    made = write_workflow(data, TYPES, [{"node": "5:4:1", "input": "steps", "value": 33}], Settings())
    assert parse(made, TYPES).nodes["5:4:1"].inputs["steps"] == 33
    assert (made["nodes"][0]["widgets_values"], made["definitions"]["subgraphs"][0]["nodes"][0]["widgets_values"]) == (
        [33],
        [7],
    )


def test_a_file_with_fewer_values_is_filled_up() -> None:
    data = editor([knobs(1, values=KNOB_VALUES[:1]), show(2, 1)], [[1, 1, 0, 2, 0, "TOY"]])
    made = write_workflow(data, TYPES, [{"node": "1", "input": "mode", "value": "sde"}], Settings())
    before, after = parse(data, TYPES).nodes["1"].inputs, parse(made, TYPES).nodes["1"].inputs
    assert after == before | {"mode": "sde"}


@pytest.mark.parametrize("wrong", [3, "bar", {"when": "later"}, {"midi": [{}]}, {"more": 1}, {"midi": [None]}])
def test_damaged_settings_are_told(wrong: Any) -> None:
    with pytest.raises(WorkflowError, match="settings"):
        read_settings({"nodes": [], "extra": {"ostinato": wrong}})


@pytest.mark.parametrize("odd", [{}, {"nodes": []}, {"nodes": [3], "extra": 4}, {"1": 2}, {"prompt": {}}])
def test_a_workflow_without_settings_has_those_of_none(odd: dict[str, Any]) -> None:
    assert read_settings(odd) == Settings()


@pytest.fixture
def here(tmp_path: Path, places) -> Iterator[Path]:
    places(comfyui=tmp_path / "ComfyUI", data=tmp_path / "data")
    with use_folders(Folders(tmp_path, (tmp_path,))), host.use(host.Host(output_folders=lambda: [tmp_path])):
        yield tmp_path


def test_what_is_missing_is_listed_with_what_to_do(here: Path) -> None:
    nodes = [
        ("1", "Load Model", "OstinatoLoadModel", {"model": "nobody/there", "download": False}),
        ("2", "Load Model", "OstinatoLoadModel", {"model": "nobody/there", "download": True}),
        ("3", "Load Model", "OstinatoLoadModel", {"model": "tiny", "download": False}),
        ("4", "LoRA", "OstinatoLora", {"adapter": "fine.safetensors", "strength": 1.0}),
        ("5", "Load Engine", "OstinatoLoadEngine", {"engine": "fast"}),
        ("6", "Live Capture", "OstinatoLiveCapture", {"capture": "capture_00001_"}),
        ("7", "Live Capture", "OstinatoLiveCapture", {"capture": Link("6", 0)}),
        ("8", "Knobs", "OstinatoKnobs", {"sde": 1.0}),
    ]
    found = missing(nodes)
    assert [(one.node, one.kind, one.name) for one in found] == [
        ("1", "model", "nobody/there"),
        ("4", "LoRA", "fine.safetensors"),
        ("5", "engine", "fast"),
        ("6", "capture", "capture_00001_"),
    ]
    assert all(one.name in one.reason and one.reason.endswith(".") for one in found)
    lora = here / "ComfyUI" / "models" / "loras" / "fine.safetensors"
    lora.parent.mkdir(parents=True)
    lora.write_bytes(b"")
    assert "4" not in [one.node for one in missing(nodes)]


def test_a_set_knows_its_sounds_too(here: Path) -> None:
    types = all_types()
    data = {
        "1": {"class_type": "LoadAudio", "inputs": {"audio": "gone.wav"}},
        "2": {"class_type": "OstinatoLiveCapture", "inputs": {"capture": "c"}, "_meta": {"ostinato": {"when": "beat"}}},
    }
    made = share_of(data, parse(data, types), types)
    assert [one["kind"] for one in made.missing] == ["audio file", "capture"]
    assert made.settings == Settings()  # the first node has none, and there is no Live Session
    assert made.write([], PLAYED)["1"]["_meta"]["ostinato"]["when"] == "bar"
