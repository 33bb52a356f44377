"""The files that people share, run without ComfyUI, shortened."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ostinato.cli import main
from ostinato.cli.workflow import parse
from ostinato.engine_runtime.takes.take import Log
from ostinato.scripts import make_workflows
from ostinato.scripts.graphs import GRAPHS, ORDER
from typer.testing import CliRunner

from ...examples import ALL, FOLDER, example, name_of, put_short_clip

PLAYED = [path for path in ALL if not name_of(path).startswith(("native_", "live"))]
NATIVE = [path for path in ALL if name_of(path).startswith("native_")]
PROFILED = ["6.depth=1", "6.ticks=1", "9.depth=2", "9.ticks=1"]  # torch's profiler takes longer than the music
SHORT = {
    "text_to_music": ["OstinatoEncodePrompt.seconds=1.0"],
    "cover": [],
    "base_with_guidance": ["OstinatoEncodePrompt.seconds=1.0", "OstinatoStreamDenoise.steps=4"],
    "residual_guidance": ["OstinatoEncodePrompt.seconds=1.0", "OstinatoStreamDenoise.steps=4"],
    "sde_keeps_the_source": [],
    "prompt_crossfade": ["5.seconds=1.0", "6.seconds=1.0"],
    "mask_and_target": [],
    "gain_and_dcw": ["OstinatoEncodePrompt.seconds=1.0"],
    "curves_from_a_clip": [],
    "automation_and_take": ["OstinatoEncodePrompt.seconds=1.0", "OstinatoStreamDenoise.steps=4"],
    "build_engine": ["OstinatoEncodePrompt.seconds=1.0", "OstinatoBuildEngine.action=cancel"],  # a build takes a minute
    "load_engine": ["OstinatoEncodePrompt.seconds=1.0"],
    "layer_profile": ["OstinatoEncodePrompt.seconds=1.0", *PROFILED],
}


def run(path: Path, out: Path, settings: list[str]):
    """Run a copy of a workflow, whose clip is short."""
    out.mkdir(exist_ok=True)
    put_short_clip(out)
    copy = out / "workflow.json"
    copy.write_bytes(path.read_bytes())
    arguments = ["run", str(copy), "--out", str(out), "--device", "cpu", "--json"]
    return CliRunner().invoke(main.app, arguments + [part for s in settings for part in ("--set", s)])


@pytest.mark.parametrize("path", PLAYED, ids=name_of)
def test_it_makes_music(cache, path, tmp_path):
    result = run(path, tmp_path, SHORT[name_of(path)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    sounds = [Path(f) for f in report["files"] if f.endswith(".flac")]
    assert len(sounds) == report["finished"] >= 2 and report["ticks"] >= 4 and report["realtime"] > 0
    for sound in sounds:
        audio, rate = soundfile.read(sound, always_2d=True)
        assert rate == 48_000 and audio.shape[1] == 2 and np.isfinite(audio).all()
        assert 0.01 < np.sqrt((audio**2).mean()) < 0.5
    assert any(f.endswith(".png") for f in report["files"])


def test_the_editors_file_and_the_api_form_sound_the_same(cache, tmp_path):
    path, types = example("text_to_music"), main.all_types()
    api = tmp_path / "api.json"
    api.write_text(json.dumps(parse(json.loads(path.read_text("utf-8")), types).to_api()), "utf-8")
    for file, out in ((path, "a"), (api, "b")):
        assert run(file, tmp_path / out, SHORT["text_to_music"]).exit_code == 0
    made = [sorted((tmp_path / out).glob("audio/*.flac")) for out in "ab"]
    assert [p.read_bytes() for p in made[0]] == [p.read_bytes() for p in made[1]] and len(made[0]) == 4


@pytest.mark.parametrize("path", NATIVE, ids=name_of)
def test_a_native_workflow_says_that_it_needs_comfyui(path, tmp_path):
    result = run(path, tmp_path, [])
    assert result.exit_code == 2 and "of the unknown type" in result.stderr and "in ComfyUI" in result.stderr


def test_the_examples_are_what_the_script_writes():
    """Nodes change; their workflows are written again by scripts/make_workflows.py."""
    assert [name_of(path) for path in ALL] == list(ORDER) and set(ORDER) == GRAPHS.keys()
    for name, (note, columns) in GRAPHS.items():
        path = FOLDER / make_workflows.file_name(name)
        assert json.loads(path.read_text("utf-8")) == make_workflows.workflow(name, note, columns)


def test_each_has_a_picture_of_its_own():
    pictures = {path: path.with_suffix(".jpg").read_bytes() for path in ALL}
    assert len(set(pictures.values())) == len(ALL)
    assert {path.suffix for path in FOLDER.iterdir()} == {".json", ".jpg", ".flac"}
    assert len(list(FOLDER.glob("*.jpg"))) == len(ALL)


def test_another_run_is_another_take_except_where_takes_are_compared():
    for path in ALL:
        graph = json.loads(path.read_text("utf-8"))
        for node in (node for node in graph["nodes"] if node["type"] == "OstinatoStreamDenoise"):
            wanted = "fixed" if name_of(path) in ("build_engine", "load_engine", "layer_profile") else "randomize"
            assert [value for value in node["widgets_values"] if value in ("fixed", "randomize")] == [wanted], path.stem


def test_native_ones_say_where_their_model_is_to_be_had():
    for path in NATIVE:
        graph = json.loads(path.read_text("utf-8"))
        (loader,) = [node for node in graph["nodes"] if node["type"] == "CheckpointLoaderSimple"]
        (model,) = loader["properties"]["models"]
        assert model["name"] == loader["widgets_values"][0] and model["url"].endswith(f"/{model['name']}")
        assert model["directory"] == "checkpoints" and model["url"].startswith("https://huggingface.co/Comfy-Org/")


@pytest.mark.parametrize(("name", "knob", "kind", "reached"), [
    ("prompt_crossfade", "blend", "turned", {0.0, 1.0}),
    ("automation_and_take", "depth", "configured", {4, 8, 2}),
])  # fmt: skip
def test_what_the_notes_promise_is_reached(cache, tmp_path, name, knob, kind, reached):
    """The cross-fade arrives at the second prompt, and the ring at 8: read from the take that is kept."""
    graph = parse(json.loads(example(name).read_text("utf-8")), main.all_types())
    stream = next(id for id, node in graph.nodes.items() if node.class_type == "OstinatoStreamDenoise")
    api = graph.to_api() | {"take": {"class_type": "OstinatoSaveTake", "inputs": {"filename_prefix": "take"}}}
    api["take"]["inputs"]["take"] = [stream, 2]
    decodes = [id for id, node in graph.nodes.items() if node.class_type == "OstinatoStreamDecode"]
    for id in [id for id, node in api.items() if id in decodes or [decodes[0], 0] in node["inputs"].values()]:
        del api[id]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(api), "utf-8")
    result = run(path, tmp_path, [*SHORT[name], f"{stream}.steps=4"])
    assert result.exit_code == 0, result.output
    take = Log.load(next(tmp_path.rglob("take*.safetensors")))
    values = [event.what[knob] for event in take.events if event.kind == kind and knob in event.what]
    assert reached <= set(values) and max(values) == max(reached) and values[-1] == (1.0 if knob == "blend" else 2)
