"""The files that people share, run without ComfyUI, shortened."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ostinato.cli import main
from ostinato.cli.workflow import parse
from typer.testing import CliRunner

FOLDER = Path(__file__).parents[3] / "example_workflows"
PLAYED = sorted(p for p in FOLDER.glob("*.json") if not p.stem.startswith(("native_", "live")))
NATIVE = sorted(FOLDER.glob("native_*.json"))
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
    "automation_and_take": ["OstinatoEncodePrompt.seconds=1.0"],
    "build_engine": ["OstinatoEncodePrompt.seconds=1.0", "OstinatoBuildEngine.action=cancel"],  # a build takes a minute
    "load_engine": ["OstinatoEncodePrompt.seconds=1.0"],
    "layer_profile": ["OstinatoEncodePrompt.seconds=1.0", *PROFILED],
}


def run(path: Path, out: Path, settings: list[str]):
    arguments = ["run", str(path), "--out", str(out), "--device", "cpu", "--json"]
    return CliRunner().invoke(main.app, arguments + [part for s in settings for part in ("--set", s)])


@pytest.mark.parametrize("path", PLAYED, ids=lambda p: p.stem)
def test_it_makes_music(cache, path, tmp_path):
    result = run(path, tmp_path, SHORT[path.stem])
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
    path, types = FOLDER / "text_to_music.json", main.all_types()
    api = tmp_path / "api.json"
    api.write_text(json.dumps(parse(json.loads(path.read_text("utf-8")), types).to_api()), "utf-8")
    for file, out in ((path, "a"), (api, "b")):
        assert run(file, tmp_path / out, SHORT["text_to_music"]).exit_code == 0
    made = [sorted((tmp_path / out).rglob("*.flac")) for out in "ab"]
    assert [p.read_bytes() for p in made[0]] == [p.read_bytes() for p in made[1]] and len(made[0]) == 4


@pytest.mark.parametrize("path", NATIVE, ids=lambda p: p.stem)
def test_a_native_workflow_says_that_it_needs_comfyui(path, tmp_path):
    result = run(path, tmp_path, [])
    assert result.exit_code == 2 and "CheckpointLoaderSimple" in result.stderr


def test_the_examples_are_what_the_script_writes(monkeypatch):
    """Nodes change; their workflows are written again by scripts/make_workflows.py."""
    monkeypatch.syspath_prepend(str(FOLDER.parent / "scripts"))
    script = runpy.run_path(str(FOLDER.parent / "scripts" / "make_workflows.py"))
    assert {p.stem for p in FOLDER.glob("*.json")} == script["GRAPHS"].keys()
    for name, (note, columns) in script["GRAPHS"].items():
        assert json.loads((FOLDER / f"{name}.json").read_text("utf-8")) == script["workflow"](name, note, columns)
