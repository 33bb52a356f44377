"""Forms in which workflows are shared: values on a subgraph's node, bypasses of unions, nodes of other packs and of the
editor alone, what the API form may hold, encodings, and workflows inside pictures and sounds.

What the editor makes of a workflow is compared with the editor itself in tests/browser/test_export.py.
"""

from __future__ import annotations

import codecs
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import pytest
import soundfile
import torch
from ostinato.cli import core_nodes, main
from ostinato.cli.core_nodes import CORE_NODES, Folders, SaveAudioMP3, SaveAudioOpus, use_folders
from ostinato.cli.graph import Graph, Link, WorkflowError, catalogue
from ostinato.cli.share import write_workflow
from ostinato.cli.validate import running_order, validate
from ostinato.cli.workflow import load_json, parse
from ostinato.engine_runtime.errors import AudioError
from ostinato.engine_runtime.serve.messages import Settings
from ostinato.nodes.shared.comfy import io
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from ..refusal import check_sentence
from .test_workflow import subgraph
from .toy_nodes import KNOB_VALUES, KNOBS, TOYS, api, editor, player, raw, socket

Toy = io.Custom("TOY")


class ToyEither(io.ComfyNode):
    """Takes a toy or a number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        either = io.MultiType.Input("either", types=[Toy, io.Int], optional=True)
        return io.Schema(node_id="ToyEither", inputs=[either], outputs=[Toy.Output()])


TYPES = catalogue([*TOYS, ToyEither], CORE_NODES)


def run(data: dict[str, Any]) -> Graph:
    """Read a workflow and check all that its outputs need."""
    graph = parse(data, TYPES)
    validate(graph, TYPES, running_order(graph, TYPES))
    return graph


def knobs(node: int, *links: tuple[str, str, int | None, bool], **more: Any) -> dict[str, Any]:
    sockets = [socket(name, kind, link, widget) for name, kind, link, widget in links]
    return raw(node, "ToyKnobs", sockets, ["TOY", "INT", "STRING"], list(KNOB_VALUES), **more)


def show(node: int, link: int) -> dict[str, Any]:
    return raw(node, "ToyShow", [socket("toy", "TOY", link)], ["TOY"], [1])


INNER = subgraph(
    "inner",
    [knobs(1, ("steps", "INT", 3, True), ("tags", "STRING", 4, True))],
    [(2, 1, 0, -20, 0, "TOY"), (3, -10, 0, 1, 0, "INT"), (4, -10, 1, 1, 1, "STRING")],
    ["steps", "words"],
    ["toy"],
)
ALL = [["1", "steps"], ["1", "tags"]]
OWN = [["-1", "steps"], ["-1", "words"]]
HELD = {
    "values alone": (None, [12, "host"]),
    "an empty list": ([], [12, "host"]),
    "inner widgets": (ALL, [12, "host"]),
    "the node's own inputs": (OWN, [12, "host"]),
    "text": (json.dumps(ALL), [12, "host"]),
    "the other order": (ALL[::-1], ["host", 12]),
    "text that is no JSON": ("[[", [12, "host"]),
    "numbers for nodes": ([[1, "steps"], [1, "tags"]], [12, "host"]),
    "odd entries with values": ([ALL[0], None, ["1"], 5, ALL[1]], [12, None, None, None, "host"]),
    "odd entries without values": ([None, *ALL, ["x"]], [12, "host"]),
    "a node that is gone": ([["99", "seed"], *ALL], [5, 12, "host"]),
    "names of older editors": ([["1", "1: steps"], ["1", "1: tags"]], [12, "host"]),
    "a preview": ([*ALL, ["1", "$$canvas-image-preview"]], [12, "host", None]),
    "widgets that no input leads to": ([*ALL, ["1", "mode"]], [12, "host", "ode"]),
}


def held(proxies: Any, values: Any) -> dict[str, Any]:
    sockets = [socket("steps", "INT", None, True), socket("words", "STRING", None, True)]
    user = raw(5, "inner", sockets, ["TOY"], values)
    user["properties"] = {} if proxies is None else {"proxyWidgets": proxies}
    return editor([user, show(6, 1)], [[1, 5, 0, 6, 0, "TOY"]], definitions={"subgraphs": [INNER]})


@pytest.mark.parametrize("form", HELD)
def test_values_on_a_subgraphs_node_win(form: str) -> None:
    inputs = run(held(*HELD[form])).nodes["5:1"].inputs
    assert (inputs["steps"], inputs["tags"]) == (12, "host")
    assert inputs["mode"] == ("ode" if "no input" in form else KNOBS["mode"])


@pytest.mark.parametrize("form", HELD)
def test_values_on_a_subgraphs_node_are_written_there(form: str) -> None:
    turned = [{"node": "5:1", "input": name, "value": value} for name, value in (("steps", 33), ("tags", "new"))]
    made = write_workflow(held(*HELD[form]), TYPES, turned, Settings())
    inputs = run(made).nodes["5:1"].inputs
    assert (inputs["steps"], inputs["tags"]) == (33, "new") and {33, "new"} < {*made["nodes"][0]["widgets_values"], 0}


def test_values_that_are_missing_are_the_inner_ones() -> None:
    for values in (None, [], [None, None], [12]):
        inputs = run(held(None, values)).nodes["5:1"].inputs
        assert (inputs["steps"], inputs["tags"]) == (12 if values == [12] else KNOBS["steps"], KNOBS["tags"])


def test_a_subgraph_shows_what_one_inside_it_shows() -> None:
    """Its own value, else that of the node inside, else that of the widget."""
    sockets = [socket("steps", "INT", 3, True), socket("words", "STRING", None, True)]
    links = [(2, 4, 0, -20, 0, "TOY"), (3, -10, 0, 4, 0, "INT")]
    middle = raw(4, "inner", sockets, ["TOY"], [7, "middle"])
    outer = subgraph("outer", [middle], links, ["many"], ["toy"])
    user = raw(5, "outer", [socket("many", "INT", None, True)], ["TOY"], [12])
    data = editor([user, show(6, 1)], [[1, 5, 0, 6, 0, "TOY"]], definitions={"subgraphs": [outer, INNER]})

    def inputs() -> tuple[int, str]:
        found = run(data).nodes["5:4:1"].inputs
        return found["steps"], found["tags"]

    assert inputs() == (12, "middle")
    user["widgets_values"], user["properties"] = [12, "host"], {"proxyWidgets": [["4", "many"], ["4", "words"]]}
    assert inputs() == (12, "host")
    user["widgets_values"] = []
    assert inputs() == (7, "middle")
    middle["widgets_values"] = None
    assert inputs() == (KNOBS["steps"], KNOBS["tags"])
    data["definitions"] = {"subgraphs": [outer | {"definitions": {"subgraphs": [INNER]}}]}
    assert inputs() == (KNOBS["steps"], KNOBS["tags"])


def test_an_input_that_leads_to_two_widgets_has_the_value_of_the_first() -> None:
    second = knobs(2, ("toy", "TOY", 5, False), ("steps", "INT", 4, True))
    second["widgets_values"][2] = 33
    links = [(3, -10, 0, 1, 0, "INT"), (4, -10, 0, 2, 1, "INT"), (5, 1, 0, 2, 0, "TOY"), (2, 2, 0, -20, 0, "TOY")]
    inner = subgraph("two", [knobs(1, ("steps", "INT", 3, True)), second], links, ["steps"], ["toy"])
    user = raw(5, "two", [socket("steps", "INT", None, True)], ["TOY"], [])
    data = editor([user, show(6, 1)], [[1, 5, 0, 6, 0, "TOY"]], definitions={"subgraphs": [inner]})
    assert run(data).nodes["5:2"].inputs["steps"] == KNOBS["steps"]
    user["widgets_values"] = [12]
    assert [run(data).nodes[f"5:{node}"].inputs["steps"] for node in (1, 2)] == [12, 12]


def test_a_primitive_inside_is_shown() -> None:
    fed = knobs(1, ("steps", "INT", 3, True))
    inside = [raw(3, "PrimitiveNode", (), ["INT"], [21, "fixed"]), fed]
    inner = subgraph("p", inside, [(2, 1, 0, -20, 0, "TOY"), (3, 3, 0, 1, 0, "INT")], [], ["toy"])
    user = raw(5, "p", (), ["TOY"], [12], properties={"proxyWidgets": [["3", "value"]]})
    data = editor([user, show(6, 1)], [[1, 5, 0, 6, 0, "TOY"]], definitions={"subgraphs": [inner]})
    assert run(data).nodes["5:1"].inputs["steps"] == 12
    user["widgets_values"] = [None]
    assert run(data).nodes["5:1"].inputs["steps"] == 21


@pytest.mark.parametrize("slot", [0, 1])
def test_a_bypassed_node_hands_on_what_fits_one_of_its_types(slot: int) -> None:
    first = knobs(1)
    either = raw(2, "ToyEither", [socket("either", "TOY,INT", 1)], ["TOY"], None, mode=4)
    data = editor([first, either, show(3, 2)], [[1, 1, slot, 2, 0, "*"], [2, 2, 0, 3, 0, "TOY"]])
    assert parse(data, TYPES).nodes["3"].inputs["toy"] == Link("1", slot)


def test_what_no_output_needs_is_passed_over() -> None:
    label = raw(8, "Label (rgthree)", title="My section")
    other = raw(9, "Of another pack", [socket("toy", "TOY", 2)], ["TOY"])
    newer = raw(10, "ToyKnobs", (), ["TOY"], [*KNOB_VALUES, 1, 2])
    nodes = [knobs(1), show(2, 1), label, other, newer, None]
    graph = run(editor(nodes, [[1, 1, 0, 2, 0, "TOY"], [2, 1, 0, 9, 0, "TOY"], None, [50]]))
    assert set(graph.nodes) == {"1", "2"} and set(graph.faults) == {"9", "10"}
    with pytest.raises(WorkflowError, match="'Of another pack'"):
        run(editor([*nodes, show(3, 3)], [[1, 1, 0, 2, 0, "TOY"], [3, 9, 0, 3, 0, "TOY"]]))
    with pytest.raises(WorkflowError, match="'Of another pack'"):
        run(editor([other], []))
    with pytest.raises(WorkflowError, match="convert the group node to a subgraph"):
        run(editor([*nodes, raw(7, "workflow>Mine")], [[1, 1, 0, 2, 0, "TOY"]]))


def test_links_are_found_from_either_end() -> None:
    """Sockets in another order than their links say, and a socket whose link is only among the links."""
    fed = raw(2, "ToyKnobs", [socket("sides", "INT"), socket("toy", "TOY", 1)], ["TOY"], KNOB_VALUES)
    data = editor([knobs(1), fed, show(3, 2)], [[1, 1, 0, 2, 0, "TOY"], [2, 2, 0, 3, 0, "TOY"]])
    inputs = run(data).nodes["2"].inputs
    assert inputs["toy"] == Link("1", 0) and "sides" not in inputs
    data["nodes"][2]["inputs"][0]["link"] = None
    assert run(data).nodes["3"].inputs["toy"] == Link("2", 0)


def test_a_widget_linked_to_a_muted_node_keeps_its_value() -> None:
    data = editor([knobs(1, mode=2), knobs(2, ("steps", "INT", 1, True)), show(3, 2)], [])
    data["links"] = [[1, 1, 1, 2, 0, "INT"], [2, 2, 0, 3, 0, "TOY"]]
    assert run(data).nodes["2"].inputs["steps"] == KNOBS["steps"]


def test_the_api_form_as_prompt_takes_it() -> None:
    data = player()
    data["1"]["inputs"] |= {"steps": "12", "volume": "0.75", "live": 1, "tags": 5}
    data |= {"8": {"class_type": "MarkdownNote", "inputs": {"text": "hi"}}, "_comment": "mine", "9": {"note": 1}}
    data |= api(n10=("Of another pack", {}))
    for form in (data, {"prompt": data}, {"output": data, "workflow": {"nodes": [], "links": []}}):
        assert run(form).nodes["1"].inputs == KNOBS | {"steps": 12, "volume": 0.75, "live": True, "tags": "5"}


@pytest.mark.parametrize(
    ("name", "value"), [("steps", "2.5"), ("steps", "x"), ("volume", "nan"), ("volume", "1e999"), ("live", "false")]
)
def test_text_that_is_no_number(name: str, value: str) -> None:
    data = player()
    data["1"]["inputs"][name] = value
    with pytest.raises(WorkflowError, match=f"'{value}' for {name}"):
        run(data)


def text() -> str:
    return json.dumps(player() | api(n6=("ToyKnobs", {"tags": "caf\u00e9 \U0001f3b5"})), ensure_ascii=False)


BOMS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("encoding", BOMS)
def test_encodings(tmp_path: Path, encoding: str, mark: bool) -> None:
    path = tmp_path / "workflow.json"
    path.write_bytes(BOMS[encoding] * mark + text().encode(encoding))
    assert load_json(path) == json.loads(text())


def png(**texts: str) -> bytes:
    made, info = BytesIO(), PngImagePlugin.PngInfo()
    for name, value in texts.items():
        info.add_text(name, value)
    Image.new("RGB", (8, 8)).save(made, "png", pnginfo=info)
    return made.getvalue()


def webp(**texts: str) -> bytes:
    made, exif = BytesIO(), Image.Exif()
    for field, (name, value) in zip((0x010F, 0x0110), texts.items(), strict=False):
        exif[field] = f"{name}:{value}"
    Image.new("RGB", (8, 8)).save(made, "webp", exif=exif)
    return made.getvalue()


def sound(kind: str, codec: str, **texts: str) -> bytes:
    made = BytesIO()
    with av.open(made, "w", format=kind) as container:
        container.metadata.update(texts)
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        samples = torch.zeros(1, 9600).numpy()
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return made.getvalue()


FILES = {
    "png": png,
    "webp": webp,
    "flac": lambda **texts: sound("flac", "flac", **texts),
    "opus": lambda **texts: sound("opus", "libopus", **texts),
    "mp3": lambda **texts: sound("mp3", "libmp3lame", **texts),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_workflow_inside_a_file(tmp_path: Path, kind: str) -> None:
    path, flow = tmp_path / f"shared.{kind}", editor([knobs(1), show(2, 1)], [[1, 1, 0, 2, 0, "TOY"]])
    path.write_bytes(FILES[kind](prompt=json.dumps(player()), workflow=json.dumps(flow)))
    assert load_json(path) == flow
    path.write_bytes(FILES[kind](prompt=json.dumps(player())))
    assert load_json(path) == player()
    whole = FILES[kind](other="text")
    for data, words in (
        (whole, "holds no workflow"),
        (FILES[kind](workflow="{"), "no JSON"),
        (whole[:20], "cannot be read|no workflow"),
    ):
        path.write_bytes(data)
        with pytest.raises(WorkflowError, match=words) as caught:
            load_json(path)
        check_sentence(caught.value)


def test_a_sound_that_holds_none_is_no_json(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", torch.zeros(100, 1).numpy(), 8000)
    with pytest.raises(WorkflowError, match="no JSON"):
        load_json(tmp_path / "a.wav")


def test_nodes_that_hold_and_show_a_value() -> None:
    values = {"Int": 5, "Float": 0.25, "String": "words", "StringMultiline": "two\nlines", "Boolean": True}
    for name, value in values.items():
        nodes = api(n1=(f"Primitive{name}", {"value": value}), n2=("PreviewAny", {"source": ["1", 0]}))
        graph = run(nodes)
        made = TYPES[graph.nodes["1"].class_type].cls.execute(**graph.nodes["1"].inputs)
        assert made.args == (value,)
        assert TYPES["PreviewAny"].cls.execute(value).args == (str(value),)
    assert TYPES["PreviewAny"].cls.execute({"a": [1]}).args == (json.dumps({"a": [1]}, indent=4),)
    typed = editor([raw(1, "PrimitiveInt", values=[5, "fixed"]), raw(2, "PreviewAny", [socket("source", "*", 1)])], [])
    typed["links"], typed["nodes"][0]["outputs"] = [[1, 1, 0, 2, 0, "*"]], [{"type": "INT"}]
    assert run(typed).nodes["2"].inputs["source"] == Link("1", 0)


SIZES = {"mp3": ("128k", "320k"), "opus": ("64k", "192k")}


def test_more_bits_than_opus_has_for_one_channel(tmp_path: Path) -> None:
    audio = {"waveform": torch.zeros(1, 1, 48_000), "sample_rate": 48_000}
    with (
        use_folders(Folders(tmp_path)),
        pytest.raises(AudioError, match="mono .* cannot be opus of quality 320k") as caught,
    ):
        core_nodes.write_lossy(audio, "clip", "opus", "320k")
    check_sentence(caught.value)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("node", "kind", "rate"), [(SaveAudioMP3, "mp3", 44_100), (SaveAudioOpus, "opus", 44_100)])
def test_lossy_files_sound_like_what_they_were_given(
    tmp_path: Path, node: Any, kind: str, rate: int, channels: int
) -> None:
    tone = 0.5 * torch.sin(torch.arange(rate) * 2 * torch.pi * 440 / rate)
    audio = {"waveform": tone.expand(2, channels, -1), "sample_rate": rate}
    qualities = node.GET_SCHEMA().inputs[2].options
    with use_folders(Folders(tmp_path)):
        for quality in [one for one in qualities if (kind, one, channels) != ("opus", "320k", 1)]:
            made = core_nodes.write_lossy(audio, f"clip{quality}", kind, quality)
            assert len(made) == 2 and all(path.endswith(f".{kind}") for path in made)
            heard, found = soundfile.read(made[0], always_2d=True)
            assert found == (48_000 if kind == "opus" else rate) and heard.shape[1] == channels
            assert len(heard) / found == pytest.approx(1.0, abs=0.06)
            middle = heard[found // 4 : found // 2, 0]
            assert (middle**2).mean() ** 0.5 == pytest.approx(0.5 / 2**0.5, rel=0.05)
            power = abs(torch.fft.rfft(torch.from_numpy(middle)))
            assert power.argmax() * found / len(middle) == pytest.approx(440, abs=3)
        small, large = ((tmp_path / f"clip{one}_00001_.{kind}").stat().st_size for one in SIZES[kind])
        assert small < large
        with pytest.raises(AudioError, match="3 channels"):
            core_nodes.write_lossy(audio | {"waveform": tone.expand(1, 3, -1)}, "clip", kind, qualities[0])
    with use_folders(Folders(tmp_path)), pytest.raises(AudioError, match="an MP3 file has"):
        core_nodes.write_lossy(audio | {"sample_rate": 44_000}, "clip", "mp3", "128k")


def test_the_command_plays_a_picture(tmp_path: Path, knows) -> None:
    knows(TYPES)
    (tmp_path / "shared.png").write_bytes(png(prompt=json.dumps(player())))
    result = CliRunner().invoke(main.app, ["run", str(tmp_path / "shared.png"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and list((tmp_path / "out").rglob("*.flac")), result.output


def test_the_command_tells_of_nodes_that_it_passes_over(tmp_path: Path, knows) -> None:
    knows(TYPES)
    (tmp_path / "toy.json").write_text(json.dumps(player() | api(n9=("SaveVideo", {"audio": ["2", 0]}))))
    result = CliRunner().invoke(main.app, ["run", str(tmp_path / "toy.json"), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["nodes"] == 5
    assert result.stderr.startswith("Passed over: node 9 'SaveVideo' is of the unknown type")


@pytest.mark.parametrize("zip", [False, True])
def test_a_picture_with_international_text(tmp_path: Path, zip: bool) -> None:
    made, info = BytesIO(), PngImagePlugin.PngInfo()
    info.add_itxt("workflow", text(), zip=zip)
    Image.new("RGB", (8, 8)).save(made, "png", pnginfo=info)
    (tmp_path / "shared.png").write_bytes(made.getvalue())
    assert load_json(tmp_path / "shared.png") == json.loads(text())


def test_nan_in_a_picture_is_null(tmp_path: Path) -> None:
    """ComfyUI writes it into prompts, as `is_changed`; a workflow's own file has none."""
    found = player() | {"x": {"is_changed": [float("nan")]}}
    (tmp_path / "shared.png").write_bytes(png(prompt=json.dumps(found)))
    assert load_json(tmp_path / "shared.png") == player() | {"x": {"is_changed": [None]}}
    (tmp_path / "broken.png").write_bytes(png(prompt='{"x": NaN'))
    (tmp_path / "plain.json").write_text(json.dumps(found))
    for name in ("broken.png", "plain.json"):
        with pytest.raises(WorkflowError, match="no JSON"):
            load_json(tmp_path / name)
