"""The editor's JSON and the API form become the same graph; what exists only in the editor is followed through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.cli.core_nodes import CORE_NODES
from ostinato.cli.graph import Graph, Link, WorkflowError, catalogue
from ostinato.cli.validate import running_order, types_match, validate
from ostinato.cli.workflow import parse
from ostinato.nodes.shared import headless_io

from .toy_nodes import KNOB_VALUES, KNOBS, TOYS, api, editor, raw, socket

TYPES = catalogue(TOYS, CORE_NODES)
TYPED = st.characters(exclude_characters="\0", exclude_categories=("Cs",))  # what a text widget takes


def inputs_of(graph: Graph, node: str) -> dict:
    return graph.nodes[node].inputs


def knobs(node_id=1, **more):
    values = more.pop("values", KNOB_VALUES)
    return raw(node_id, "ToyKnobs", more.pop("inputs", ()), ["TOY", "INT", "STRING"], values, **more)


def show(node_id, link):
    return raw(node_id, "ToyShow", [socket("toy", "TOY", link)], ["TOY"], [1])


@st.composite
def dags(draw):
    """ToyKnobs nodes with random values, each taking toys and numbers from earlier ones."""
    nodes = []
    for index in range(draw(st.integers(1, 8))):
        node = {
            "seed": draw(st.integers(0, 2**53)),
            "steps": draw(st.integers(1, 64)),
            "tags": draw(st.text(TYPED, max_size=8) | st.sampled_from(["fixed", "randomize"])),
            "mode": draw(st.sampled_from(["ode", "sde"])),
            "live": draw(st.booleans()),
            "volume": draw(st.floats(0, 1)),
        }
        earlier = st.integers(0, index - 1) if index else st.nothing()
        for name, slot in (("toy", 0), ("sides", 1), ("steps", 1), ("tags", 2)):
            if index and draw(st.booleans()):
                node[name] = Link(str(draw(earlier)), slot)
        nodes.append(node)
    return nodes


def as_api(dag):
    as_json = lambda value: [value.node, value.slot] if isinstance(value, Link) else value  # noqa: E731
    return {
        str(i): {"class_type": "ToyKnobs", "inputs": {k: as_json(v) for k, v in n.items()}} for i, n in enumerate(dag)
    }


def as_editor(dag, link_form, value_form, control):
    nodes, links = [], []
    for index, node in enumerate(dag):
        sockets = []
        for name, kind in (("toy", "TOY"), ("sides", "INT"), ("steps", "INT"), ("tags", "STRING")):
            link = node.get(name)
            if isinstance(link, Link):
                number = len(links) + 1
                fields = (number, int(link.node), link.slot, index, len(sockets), kind)
                names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
                links.append(list(fields) if link_form is list else dict(zip(names, fields, strict=True)))
                sockets.append(socket(name, kind, number, widget=name in ("steps", "tags")))
        # a converted widget keeps its place among the values
        own = {k: 1 if k == "steps" else "" if isinstance(v, Link) else v for k, v in node.items()}
        own = {k: own[k] if isinstance(node[k], Link) else node[k] for k in KNOBS}
        values = own if value_form is dict else [own[k] for k in KNOBS]
        if value_form is list:
            values[1:1] = [control]
        nodes.append(knobs(index, inputs=sockets, values=values))
    return editor(nodes, links)


@given(dags(), st.sampled_from([list, dict]), st.sampled_from([list, dict]), st.sampled_from(["fixed", "increment"]))
def test_both_forms_make_the_same_graph(dag, link_form, value_form, control):
    from_api = parse(as_api(dag), TYPES)
    from_editor = parse(as_editor(dag, link_form, value_form, control), TYPES)
    assert from_editor == from_api
    assert parse(from_api.to_api(), TYPES) == from_api


@given(dags())
def test_order_puts_every_node_after_what_it_needs(dag):
    data = as_api(dag)
    data["show"] = {"class_type": "ToyShow", "inputs": {"toy": [str(len(dag) - 1), 0], "lines": 1}}
    graph = parse(data, TYPES)
    order = running_order(graph, TYPES)
    place = {node.id: i for i, node in enumerate(order)}
    assert len(place) == len(order)
    for node in order:
        assert all(place[link.node] < place[node.id] for _, link in node.links())
    reached, todo = set(), ["show"]
    while todo:
        reached.add(todo[-1])
        todo += [link.node for _, link in graph.nodes[todo.pop()].links()]
    assert set(place) == reached
    validate(graph, TYPES, order)


def test_widgets_are_required_first_then_optional():
    assert inputs_of(parse(editor([knobs()], []), TYPES), "1") == KNOBS


def test_a_file_without_the_control_value_and_one_with_fewer_values():
    assert inputs_of(parse(editor([knobs(values=[7, 8, "a, b", "sde", True, 0.25])], []), TYPES), "1") == KNOBS
    fewer = inputs_of(parse(editor([knobs(values=[7, "fixed", 9])], []), TYPES), "1")
    assert fewer == {"seed": 7, "steps": 9, "tags": "techno", "mode": "ode", "live": False, "volume": 0.5}


def test_more_values_than_widgets_is_a_newer_version():
    with pytest.raises(WorkflowError, match="1 widget values more than this version of ToyKnobs"):
        newer = editor([knobs(values=[*KNOB_VALUES, 3.0]), show(2, 1)], [[1, 1, 0, 2, 0, "TOY"]])
        running_order(parse(newer, TYPES), TYPES)


def test_core_load_audio_has_widgets_of_the_editor_only():
    loader = raw(1, "LoadAudio", outputs=["AUDIO"], values=["a.wav", "", "audio"])
    assert inputs_of(parse(editor([loader], []), TYPES), "1") == {"audio": "a.wav"}
    data = api(n1=("LoadAudio", {"audio": "a.wav", "audioUI": ""}))
    assert inputs_of(parse(data, TYPES), "1") == {"audio": "a.wav"}


def test_notes_reroutes_and_primitives():
    nodes = [
        knobs(1, inputs=[socket("steps", "INT", 3, widget=True)]),
        raw(2, "Reroute", [socket("", "*", 1)], ["*"]),
        raw(3, "PrimitiveNode", outputs=["INT"], values=[33, "fixed"]),
        raw(4, "Note", values=["text"]),
        raw(5, "MarkdownNote", values=["text"]),
        show(6, 2),
    ]
    links = [[1, 1, 0, 2, 0, "TOY"], [2, 2, 0, 6, 0, "TOY"], [3, 3, 0, 1, 0, "INT"]]
    graph = parse(editor(nodes, links), TYPES)
    assert set(graph.nodes) == {"1", "6"}
    assert inputs_of(graph, "6")["toy"] == Link("1", 0)
    assert inputs_of(graph, "1")["steps"] == 33


def test_a_bypassed_node_hands_on_its_input_of_the_same_type():
    middle = knobs(2, inputs=[socket("sides", "INT"), socket("toy", "TOY", 1)], mode=4)
    graph = parse(editor([knobs(1), middle, show(3, 2)], [[1, 1, 0, 2, 1, "TOY"], [2, 2, 0, 3, 0, "TOY"]]), TYPES)
    assert set(graph.nodes) == {"1", "3"}
    assert inputs_of(graph, "3")["toy"] == Link("1", 0)


def test_a_muted_node_takes_its_dependents_along_unless_an_output_needs_them():
    links = [[1, 1, 0, 2, 0, "TOY"], [2, 2, 0, 3, 0, "TOY"]]
    optional = [knobs(1, mode=2), knobs(2, inputs=[socket("toy", "TOY", 1)]), show(3, 2)]
    graph = parse(editor(optional, links), TYPES)
    validate(graph, TYPES, running_order(graph, TYPES))
    assert "toy" not in inputs_of(graph, "2")

    required = [knobs(1, mode=2, title="Source"), show(2, 1), knobs(4), show(5, 3)]
    graph = parse(editor(required, [[1, 1, 0, 2, 0, "TOY"], [3, 4, 0, 5, 0, "TOY"]]), TYPES)
    with pytest.raises(WorkflowError, match="needs toy, which comes from the muted node 'Source'"):
        validate(graph, TYPES, running_order(graph, TYPES))


def test_reroutes_in_a_circle():
    nodes = [raw(1, "Reroute", [socket("", "*", 1)], ["*"]), show(2, 1)]
    nodes[0]["inputs"][0]["link"] = 2
    with pytest.raises(WorkflowError, match="circle"):
        parse(editor(nodes, [[1, 1, 0, 2, 0, "TOY"], [2, 1, 0, 1, 0, "*"]]), TYPES)


def subgraph(name, nodes, links, inputs, outputs):
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    as_objects = [dict(zip(names, link, strict=True)) for link in links]
    ends = {"inputs": [{"name": n} for n in inputs], "outputs": [{"name": n} for n in outputs]}
    return {"id": name, "name": name, "nodes": nodes, "links": as_objects, **ends}


def test_subgraphs_are_flattened_also_nested_ones():
    inner = subgraph(
        "inner-id",
        [knobs(1, inputs=[socket("toy", "TOY", 1), socket("steps", "INT", 3, widget=True)])],
        [(1, -10, 0, 1, 0, "TOY"), (2, 1, 0, -20, 0, "TOY"), (3, -10, 1, 1, 1, "INT")],
        ["toy", "steps"],
        ["toy"],
    )
    outer = subgraph(
        "outer-id",
        [raw(4, "inner-id", [socket("toy", "TOY", 1), socket("steps", "INT", 3, widget=True)], ["TOY"])],
        [(1, -10, 0, 4, 0, "TOY"), (2, 4, 0, -20, 0, "TOY"), (3, -10, 1, 4, 1, "INT")],
        ["toy", "steps"],
        ["toy"],
    )
    promoted = {"proxyWidgets": [["-1", "steps"]]}
    instance = raw(5, "outer-id", [socket("toy", "TOY", 1), socket("steps", "INT", None, True)], ["TOY"], [12])
    instance["properties"] = promoted
    data = editor(
        [knobs(1), instance, show(6, 2)],
        [[1, 1, 0, 5, 0, "TOY"], [2, 5, 0, 6, 0, "TOY"]],
        definitions={"subgraphs": [outer, inner]},
    )
    graph = parse(data, TYPES)
    assert set(graph.nodes) == {"1", "5:4:1", "6"}
    assert inputs_of(graph, "6")["toy"] == Link("5:4:1", 0)
    assert inputs_of(graph, "5:4:1")["toy"] == Link("1", 0)
    assert inputs_of(graph, "5:4:1")["steps"] == 12

    instance["mode"] = 4
    assert inputs_of(parse(data, TYPES), "6")["toy"] == Link("1", 0)
    instance["mode"] = 0
    outer["nodes"].append(raw(9, "outer-id"))
    with pytest.raises(WorkflowError, match="nested deeper"):
        parse(data, TYPES)


@pytest.mark.parametrize(
    "made, wanted, match",
    [("INT", "INT", True), ("INT", "FLOAT", False), ("TOY", "*", True), ("*", "TOY", True), ("INT", "INT,FLOAT", True)],
)
def test_types_match(made, wanted, match):
    assert types_match(made, wanted) is match


@pytest.mark.parametrize(
    "data", [{}, {"nodes": [{}], "links": []}, {"nodes": [3]}, {"1": {"class_type": []}}, {"a": 1}]
)
def test_damaged_files(data):
    with pytest.raises(WorkflowError):
        parse(data, TYPES)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "type", "nodes", "links", "inputs", "link", "name", "1"]), inner)
    ),
    max_leaves=20,
)


@given(st.fixed_dictionaries({"nodes": st.lists(json_values, max_size=3), "links": json_values}))
def test_any_json_is_a_graph_or_one_sentence(data):
    try:
        assert isinstance(parse(data, TYPES), Graph)
    except WorkflowError as error:
        assert "\n" not in str(error)


def test_the_shim_refuses_keywords_it_does_not_know():
    for make in (headless_io.Int.Input, headless_io.Combo.Input, headless_io.Audio.Input, headless_io.Schema):
        with pytest.raises(TypeError):
            make("x", no_such_keyword=1)
    with pytest.raises(TypeError):
        headless_io.NodeOutput(1, expand={})


def test_the_shim_fills_hidden_for_one_run_only():
    node = TOYS[1]
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": {headless_io.Hidden.unique_id: "5:2"}})
    assert clone.hidden.unique_id == "5:2" and clone.hidden.prompt is None
    assert node.hidden.unique_id is None
