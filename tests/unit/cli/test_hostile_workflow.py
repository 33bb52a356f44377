"""A workflow from anywhere ends in music or in one sentence: quickly, in bounded memory, and inside its folder."""

from __future__ import annotations

import json
import os
import time
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.cli import main
from ostinato.cli.core_nodes import CORE_NODES
from ostinato.cli.graph import Link, catalogue
from ostinato.cli.sheets import MAX_PARTS
from ostinato.cli.validate import running_order, validate
from ostinato.cli.workflow import MAX_BYTES, load_json, parse
from ostinato.engine_runtime.errors import InputError, OstinatoError
from ostinato.nodes.curves import CurvePoints
from typer.testing import CliRunner

from ...examples import ALL, name_of
from ...fuzz import budget
from .toy_nodes import KNOB_VALUES, TOYS, ToyFail, editor, player, raw, socket

TYPES = catalogue([toy for toy in TOYS if toy is not ToyFail], CORE_NODES)
QUICK = 10  # seconds
LONG = 2100  # characters of a message: a few lines


@pytest.fixture
def run(tmp_path, places, knows):
    """Run the command in an empty folder on a workflow given as data, as text or bytes, or as a path."""
    knows(TYPES)
    places(here=tmp_path)

    def started(workflow, *arguments):
        path = workflow
        if not isinstance(workflow, Path):
            path = tmp_path / "toy.json"
            data = workflow if isinstance(workflow, str | bytes) else json.dumps(workflow)
            path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        return CliRunner().invoke(main.app, ["run", str(path), *arguments])

    return started


def check_sentence(result, *words, codes=(2,)):
    assert isinstance(result.exception, SystemExit) and result.exit_code in codes, repr(result.exception)
    message = result.stderr.strip()
    assert result.stdout == "" and message.isprintable() and len(message) <= LONG and message.endswith(".")
    for word in words:
        assert word in message, message


def changed(path, value, data=None):
    """A player, or other data, with another value at a path of keys."""
    data = deepcopy(player() if data is None else data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


def bomb(width: int, levels: int, inside: dict) -> dict:
    """Subgraphs in subgraphs, each `width` times."""
    subgraphs = [
        {"id": f"s{level}", "nodes": [raw(i, f"s{level + 1}") for i in range(width)], "links": []}
        for level in range(levels)
    ]
    return editor([raw(1, "s0")], [], definitions={"subgraphs": [*subgraphs, {"id": f"s{levels}", **inside}]})


A_NOTE = {"nodes": [raw(1, "Note")]}
EDITOR = editor([raw(1, "ToyShow", [socket("toy", "TOY", 1)], ["TOY"], [1])], [[1, 2, 0, 1, 0, "TOY"]])

CASES = {
    "slot of 1e999": (lambda: changed(["links", 0, 2], "1e999", EDITOR), ["out of range"]),
    "slot of text": (lambda: changed(["links", 0, 2], "slot", EDITOR), ["links[0]", "Expected `int`"]),
    "short link": (lambda: changed(["links", 0], [1, 2], EDITOR), ["missing its input toy"]),
    "links by name": (lambda: changed(["links"], {}, EDITOR), ["links", "Expected `array"]),
    "socket of a number": (lambda: changed(["nodes", 0, "inputs", 0], 3, EDITOR), ["nodes[0].inputs[0]"]),
    "node of nothing": (lambda: {"nodes": [{}]}, ["nodes[0]", "missing"]),
    "title of a number": (lambda: changed(["nodes", 0, "title"], 3, EDITOR), ["nodes[0].title", "Expected `str"]),
    "long id": (lambda: changed(["nodes", 0, "id"], "5" * 101, EDITOR), ["nodes[0].id", "length"]),
    "many sockets": (lambda: changed(["nodes", 0, "inputs"], [socket("a", "TOY")] * 1001, EDITOR), ["length <= 1000"]),
    "many points of links": (
        lambda: editor([raw(1, "Note")], [[i, 1, 0, 1, 0, "X"] for i in range(MAX_PARTS)]),
        ["more"],
    ),
    "terminal commands": (lambda: changed(["nodes", 0, "type"], "x\x1b[2J" + "y" * 9000, EDITOR), ["x\\x1b[2J"]),
    "API title of nothing": (lambda: changed(["1", "_meta"], {"title": {}}), ["node 1", "_meta.title"]),
    "API type of a number": (lambda: changed(["1", "class_type"], 3), ["node 1", "class_type"]),
    "API inputs in a row": (lambda: changed(["1", "inputs"], []), ["node 1", "inputs"]),
    "400 digits": (lambda: changed(["1", "inputs", "volume"], 10**400), ["401 digits"]),
    "300 digits": (lambda: changed(["1", "inputs", "seed"], 1e300), ["1e+300", "64 bits"]),
    "lone surrogate": (lambda: changed(["1", "inputs", "tags"], "\ud800"), ["no JSON"]),
    "NUL": (lambda: changed(["1", "inputs", "tags"], "a\0b"), ["'a\\x00b'", "without NUL"]),
    "number for a choice": (lambda: changed(["1", "inputs", "mode"], 1), ["1 for mode"]),
    "slot below 0": (lambda: changed(["2", "inputs", "toy"], ["1", -1]), ["output -1"]),
    "slot of 2^62": (lambda: changed(["2", "inputs", "toy"], ["1", 1 << 62]), [f"output {1 << 62}"]),
    "names of all nodes": (lambda: {str(i): player()["1"] for i in range(9000)}, ["no active output"]),
    "subgraphs two wide": (lambda: bomb(2, 25, A_NOTE), [f"more than {MAX_PARTS} nodes"]),
    "subgraphs with many values": (lambda: bomb(9000, 1, {"nodes": [raw(1, "X", values=[0] * 5000)]}), ["more than"]),
    "subgraphs with many links": (
        lambda: bomb(9000, 1, A_NOTE | {"links": [[1, 1, 0, 1, 0, "X"]] * 9000}),
        ["more than"],
    ),
    "subgraphs in a circle": (lambda: bomb(1, 3, {"nodes": [raw(1, "s0")]}), ["deeper than 32"]),
    "deep": (lambda: "[" * 100_000, ["100 levels"]),
    "large": (lambda: "[" + "0," * (MAX_BYTES // 2) + "0]", ["bytes"]),
    "binary": (lambda: b"\xff\xfe\0\x81", ["no JSON"]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence(run, name):
    make, words = CASES[name]
    data, begun = make(), time.monotonic()
    check_sentence(run(data if isinstance(data, str | bytes) else json.dumps(data).replace('"1e999"', "1e999")), *words)
    assert time.monotonic() - begun < QUICK


SETTINGS = {
    "thousands of digits": ("1.seed=" + "9" * 5000, "a whole number"),
    "400 digits": ("1.seed=1" + "0" * 400, "64 bits"),
    "beyond a float": ("1.volume=1e999", "a finite number"),
    "NUL": ("1.tags=a\0b", "without NUL"),
    "no UTF-8": ("1.tags=a" + os.fsdecode(b"\xff"), "lone surrogates"),
    "a terminal's command": ("\x1b[2J.x=1", "\\x1b[2J"),
    "long": ("1.mode=" + "x" * 100_000, "ode, sde"),
    "a curve of NaN": ("1.points=[NaN]", "a curve such as"),
    "a deep curve": ("1.points=" + "[" * 5000, "a curve such as"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(run, name, knows):
    setting, word = SETTINGS[name]
    data = player()
    if "points" in setting:
        data = {"1": {"class_type": "OstinatoCurvePoints", "inputs": {}}}
        knows(catalogue([CurvePoints]))
    check_sentence(run(data, "--set", setting), word)


def test_a_curve_of_millions_of_points():
    with pytest.raises(InputError, match="20000 points"):
        CurvePoints.execute([[0, 0]] * 20_000, 0.0, 1.0)


@pytest.mark.skipif(os.name != "posix", reason="FIFOs and names that are no text are POSIX's")
def test_what_is_no_file(run, tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path, word in ((tmp_path, "no regular file"), (tmp_path / "pipe.json", "no regular file")):
        check_sentence(run(path), word)
    check_sentence(run(tmp_path / ("x" * 300)), "too long")
    check_sentence(run(player(), "--out", str(tmp_path / "toy.json" / ("x" * 300))), "toy.json is a file")


@pytest.mark.skipif(os.name != "posix", reason="names that are no text are POSIX's")
def test_names_that_are_no_text(run, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.json")
    path.write_text(json.dumps(player()))
    result = run(path, "--out", os.fsdecode(b"out\xff"))
    assert result.exit_code == 0 and "out\\udcff/audio/toy_00001_.flac" in result.stdout
    path.write_text("")
    check_sentence(run(path), "\\udcff.json is no JSON")


def test_what_a_file_says_reaches_the_terminal_as_text(run):
    result = run(changed(["5", "_meta"], {"title": "\x1b[2Jtitle\r" + "x" * 9000}))
    assert result.exit_code == 0 and len(result.stdout) < 2000
    assert "\\x1b[2Jtitle" in result.stdout and "\x1b" not in result.stdout
    tags = changed(["1", "inputs", "tags"], "\x1b]0;x\x07")
    assert "\\x1b]0;x\\x07" in run(tags).stdout and json.loads(run(tags, "--json").stdout)["nodes"] == 5


def chain(n: int) -> dict:
    """Nodes one after the other."""
    nodes = [raw(i, "ToyShow", [socket("toy", "TOY", i)], ["TOY"], [0]) for i in range(1, n)]
    return editor([raw(0, "ToyKnobs", values=KNOB_VALUES), *nodes], [[i, i - 1, 0, i, 0, "TOY"] for i in range(1, n)])


def reroutes(n: int) -> dict:
    """As many sockets at the end of a way through as many reroutes, the last one first."""
    nodes = [raw(i, "Reroute", [socket("", "*", i)], ["*"]) for i in range(1, n)]
    shows = [raw(n + i, "ToyShow", [socket("toy", "TOY", n + i)], ["TOY"], [0]) for i in range(n)]
    links = [[i, i - 1, 0, i, 0, "TOY"] for i in range(1, n)]
    links += [[n + i, n - 1, 0, n + i, 0, "TOY"] for i in range(n)]
    return editor([raw(0, "ToyKnobs", values=KNOB_VALUES), *nodes, *shows], links)


def kept(n: int) -> dict:
    """As many values on a subgraph node, each of another node inside."""
    inner = {"id": "s", "nodes": [raw(i, "ToyKnobs", values=KNOB_VALUES) for i in range(n)] + [raw("o", "ToyDraw")]}
    outer = raw(1, "s", values=[0.75] * n, properties={"proxyWidgets": [[str(i), "volume"] for i in range(n)]})
    return editor([outer], [], definitions={"subgraphs": [inner]})


@pytest.mark.parametrize(("data", "nodes"), [(chain(5000), 5000), (reroutes(4000), 4001), (kept(6000), 1)])
def test_thousands_of_nodes(data, nodes):
    begun = time.monotonic()
    graph = parse(data, TYPES)
    order = running_order(graph, TYPES)
    validate(graph, TYPES, order)
    assert len(order) == nodes and time.monotonic() - begun < QUICK
    if "definitions" in data:
        assert all(node.inputs["volume"] == 0.75 for node in graph.nodes.values() if node.inputs)
    else:
        assert all(isinstance(node.inputs["toy"], Link) for node in order[1:])


def test_a_chain_of_3000_plays(run):
    result = run(chain(3000))
    assert result.exit_code == 0, result.exception


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70) | st.sampled_from([1 << 63, -(1 << 63) - 1, 1 << 64, 10**400]),
    st.floats() | st.sampled_from([1e300, -0.0]),
    st.text(max_size=6)
    | st.sampled_from(["\0", "\ud800", "\x1b[2J", "../out", "/", "x" * 300, "-10", "-20", "s", "5:1"]),
    st.sampled_from(["Reroute", "PrimitiveNode", "Note", "ToyKnobs", "SaveAudio", "LoadAudio", "ToyDraw"]),
    st.sampled_from([[], {}, [[]], {"a": []}, [None], ["1", 0], [1, 1], {"__value__": [1]}, {"title": 3}]),
)


def seed() -> dict:
    """The editor's form with a subgraph, what it keeps, a reroute, a primitive and a bypassed node."""
    inside = {
        "id": "s",
        "nodes": [raw(1, "ToyKnobs", [socket("steps", "INT", 7, widget=True)], ["TOY"], KNOB_VALUES)],
        "links": [
            {"id": 7, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0},
            {"id": 8, "origin_id": 1, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
        "inputs": [{"name": "steps"}],
    }
    outer = raw(5, "s", [socket("steps", "INT", 1)], ["TOY"], [3], properties={"proxyWidgets": [["1", "steps"]]})
    nodes = [
        outer,
        raw(6, "PrimitiveNode", [], ["INT"], [4, "fixed"]),
        raw(7, "Reroute", [socket("", "*", 2)], ["*"]),
        raw(8, "ToyShow", [socket("toy", "TOY", 3)], ["TOY"], [1], mode=4),
        raw(9, "ToyPlay", [socket("toy", "TOY", 4)], ["AUDIO", "OSTINATO_STATS"], [2]),
        raw(10, "SaveAudio", [socket("audio", "AUDIO", 5)], [], {"filename_prefix": "a/toy"}),
        raw(11, "ToyDraw", [socket("any", "*", 6)], [], []),
    ]
    links = [[1, 6, 0, 5, 0, "INT"], [2, 5, 0, 7, 0, "*"], [3, 7, 0, 8, 0, "*"], [4, 8, 0, 9, 0, "TOY"]]
    links += [[5, 9, 0, 10, 0, "AUDIO"], [6, 9, 0, 11, 0, "*"]]
    return editor(nodes, links, definitions={"subgraphs": [inside]})


def places(data, path=()):
    """Every path of keys into JSON data."""
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places(data[key], (*path, key))


@st.composite
def hostile(draw, seeds):
    """A workflow with a few values replaced by wrong ones or by each other, taken away or repeated; or damaged text."""
    data = deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        found = list(places(data))
        if not found:
            break
        *path, key = draw(st.sampled_from(found))
        inner = data
        for step in path:
            inner = inner[step]
        how = draw(st.sampled_from(["wrong", "wrong", "moved", "gone", "again"]))
        if how == "gone":
            del inner[key]
        elif how == "again" and isinstance(inner, list):
            inner.append(deepcopy(inner[key]))
        elif how == "moved":
            taken = data
            for step in draw(st.sampled_from(found)):
                taken = taken[step]
            inner[key] = deepcopy(taken)
        else:
            inner[key] = deepcopy(draw(WRONG))
    text = json.dumps(data, ensure_ascii=draw(st.booleans()))
    text = text.replace("Infinity", "1e999").encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    return text


SETTING = st.builds(
    "{}.{}={}".format,
    st.sampled_from(["1", "5", "9", "ToyKnobs", "Toy Play", "5:1", "knob"]),
    st.sampled_from(["steps", "seed", "volume", "tags", "mode", "live", "toy", "ticks", "blend", "dcw_mode"]),
    WRONG,
)


@budget(80)
@given(
    data=hostile([player(), {"prompt": player()}, seed()]),
    settings=st.lists(SETTING | st.text(max_size=12), max_size=2),
)
def test_any_workflow_plays_or_is_one_sentence(run, tmp_path, data, settings):
    """Files are made in the output folder only; `MAX_BYTES` bounds what a workflow takes of memory, at 300 MB."""
    result = run(data, "--out", "out", *[word for setting in settings for word in ("--set", setting)])
    if result.exit_code:
        check_sentence(result, codes=(1, 2))
    else:
        assert result.stdout.replace("\n", "").isprintable()
    assert {path.name for path in tmp_path.iterdir()} <= {"toy.json", "out"}
    for path in (tmp_path / "out").rglob("*"):
        path.unlink() if path.is_file() else None


EXAMPLES = [json.loads(path.read_text("utf-8")) for path in ALL if not name_of(path).startswith("native")]


@budget(60)
@given(hostile(EXAMPLES))
def test_any_example_that_was_changed_is_checked_or_one_sentence(tmp_path, data):
    """With the pack's own nodes, up to where they would run."""
    types, path = main.all_types(), tmp_path / "changed.json"
    path.write_bytes(data)
    try:
        graph = parse(load_json(path), types)
        validate(graph, types, running_order(graph, types))
    except OstinatoError as error:
        assert str(error).isprintable() and len(str(error)) <= LONG
