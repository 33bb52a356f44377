"""The command: what a run writes and prints, and one sentence and an exit code for everything that is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from ostinato.cli import main, terminal
from ostinato.cli.core_nodes import CORE_NODES, Folders, next_file, use_folders
from ostinato.cli.execute import run_graph
from ostinato.cli.graph import catalogue
from ostinato.cli.workflow import parse
from ostinato.engine_runtime.errors import InputError
from ostinato.nodes.shared import host
from PIL import Image
from typer.testing import CliRunner

from .toy_nodes import KNOB_VALUES, KNOBS, TOYS, ToyPlay, api, editor, player, raw, socket

TYPES = catalogue(TOYS, CORE_NODES)


@pytest.fixture
def ostinato(tmp_path, places, knows):
    """Runs the command in an empty folder, with the toy nodes, on a workflow given as data."""
    knows(TYPES)
    places(here=tmp_path)
    ToyPlay.runs.clear()

    def run(workflow, *arguments):
        path = workflow
        if not isinstance(workflow, Path):
            path = tmp_path / "flow" / "toy.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(workflow if isinstance(workflow, str) else json.dumps(workflow))
        return CliRunner().invoke(main.app, ["run", str(path), *arguments])

    return run


def refused(result, *words, code=2):
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    sentence = result.stderr.strip()
    assert "\n" not in sentence and sentence.endswith(".") and "Traceback" not in sentence
    for word in words:
        assert word in sentence, sentence


def with_input(kind, **inputs):
    """A player whose node of that kind has other inputs; None takes one away."""
    data = player()
    node = next(n for n in data.values() if n["class_type"] == kind)
    node["inputs"] = {k: v for k, v in (node["inputs"] | inputs).items() if v is not None}
    return data


def test_a_run_writes_files_and_a_summary(ostinato):
    result = ostinato(player(), "--out", "made")
    assert result.exit_code == 0, result.output
    assert ToyPlay.runs == ["2"]  # two nodes need it and it ran once
    assert sorted(p.name for p in Path("made").rglob("*.flac")) == [
        "preview_00001_.flac",
        "preview_00002_.flac",
        "toy_00001_.flac",
        "toy_00002_.flac",
    ]
    sound, rate = soundfile.read("made/audio/toy_00001_.flac", always_2d=True)
    assert (sound.shape, rate) == ((400, 2), 8000)
    np.testing.assert_allclose(sound[:, 0], np.tile(np.linspace(-0.5, 0.5, 400), 1), atol=1e-6)
    assert "2 latents finished in 4 ticks, 40.0 ms per tick, 4.00 times real time" in result.stdout
    assert "Toy Show\n  live=True mode=sde seed=7 steps=8 tags=a, b volume=0.25" in result.stdout
    assert result.stderr == ""
    ostinato(player(), "--out", "made")
    assert Path("made/audio/toy_00003_.flac").exists() and Path("made/audio/toy_00004_.flac").exists()


def test_json_is_one_object_and_nothing_else(ostinato):
    data = player() | api(n6=("ToyDraw", {"any": ["1", 1]}), n7=("ToyPlay", {"toy": ["1", 0], "ticks": 12}))
    data["8"] = {"class_type": "PreviewAudio", "inputs": {"audio": ["7", 0]}}
    result = ostinato(data, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert list(report) == ["workflow", "nodes", "finished", "ticks", "ms_per_tick", "realtime", "files", "texts"]
    assert (report["nodes"], report["finished"], report["ticks"]) == (8, 8, 16)
    assert report["ms_per_tick"] == pytest.approx((40 * 4 + 120 * 12) / 16)
    assert report["realtime"] == pytest.approx((4 + 12) / 2)  # both played for one second
    assert len(report["files"]) == 8 and all(Path(file).is_file() for file in report["files"])
    assert Image.open("out/preview_00003_.png").size == (6, 4)
    assert report["texts"] == {"Toy Show": "live=True mode=sde seed=7 steps=8 tags=a, b volume=0.25"}


def test_without_stats_there_is_no_stats_line(ostinato):
    result = ostinato(api(n1=("ToyDraw", {})))
    assert "latents" not in result.stdout and "wrote" in result.stdout
    assert json.loads(ostinato(api(n1=("ToyDraw", {})), "--json").stdout)["finished"] is None


@pytest.mark.parametrize("node", ["1", "Toy Knobs", "ToyKnobs"])
def test_set_names_a_node_by_id_title_or_type(ostinato, node):
    settings = [f"{node}.steps=16", f"{node}.tags=x=y. z", f"{node}.live=no", f"{node}.volume=1", f"{node}.mode=ode"]
    result = ostinato(player(), "--json", *(part for s in settings for part in ("--set", s)))
    assert (
        json.loads(result.stdout)["texts"]["Toy Show"] == "live=False mode=ode seed=7 steps=16 tags=x=y. z volume=1.0"
    )


def test_set_replaces_a_link_also_to_a_muted_node(ostinato):
    nodes = [
        raw(1, "ToyKnobs", [], ["TOY", "INT", "STRING"], KNOB_VALUES, mode=2),
        raw(2, "ToyKnobs", [socket("steps", "INT", 1, widget=True)], ["TOY"], KNOB_VALUES),
        raw(3, "ToyShow", [socket("toy", "TOY", 2)], ["TOY"], [1]),
    ]
    data = editor(nodes, [[1, 1, 1, 2, 0, "INT"], [2, 2, 0, 3, 0, "TOY"]])
    assert "steps=8" in ostinato(data).stdout  # the widget's own value, as in the editor
    result = ostinato(data, "--set", "2.steps=5")
    assert result.exit_code == 0 and "steps=5" in result.stdout


def two_knobs():
    return player() | api(n9=("ToyKnobs", KNOBS))


def circle():
    data = player() | api(n9=("ToyKnobs", KNOBS | {"toy": ["1", 0]}))
    data["1"]["inputs"]["toy"] = ["9", 0]
    return data


@pytest.mark.parametrize(
    "data, arguments, words",
    [
        (
            with_input("ToyPlay", toy=["9", 0]) | api(n9=("KSampler", {})),
            [],
            ["node 9", "unknown type 'KSampler'", "LoadAudio"],
        ),
        (with_input("ToyPlay", toy=None), [], ["'Toy Play'", "missing", "toy", "TOY"]),
        (with_input("ToyPlay", ticks=None), [], ["'Toy Play'", "missing", "ticks", "INT"]),
        (with_input("ToyPlay", toy=["1", 1]), [], ["given INT", "allowed is TOY"]),
        (with_input("SaveAudio", audio=["1", 0]), [], ["given TOY", "allowed is AUDIO"]),
        (with_input("ToyPlay", toy=["1", 3]), [], ["output 3", "3 outputs"]),
        (with_input("ToyPlay", toy=["77", 0]), [], ["node 77", "not there"]),
        (with_input("ToyPlay", toy="text"), [], ["'text'", "a link of type TOY"]),
        (with_input("ToyPlay", ticks=0), [], ["ticks", "1 to 100"]),
        (with_input("ToyPlay", ticks=101), [], ["101", "1 to 100"]),
        (with_input("ToyPlay", ticks=2.5), [], ["2.5", "a whole number"]),
        (with_input("ToyPlay", ticks="8.5"), [], ["'8.5'", "a whole number"]),
        (with_input("ToyPlay", ticks=True), [], ["True", "a whole number"]),
        (with_input("ToyPlay", tick=3), [], ["no input 'tick'", "toy, ticks"]),
        (with_input("ToyKnobs", volume=float("nan")), [], ["no JSON"]),
        (player(), ["--set", "1.volume=nan"], ["nan", "a finite number"]),
        (with_input("ToyKnobs", mode="euler"), [], ["'euler'", "ode, sde"]),
        (with_input("ToyKnobs", live="yes"), [], ["'yes'", "true or false"]),
        (with_input("ToyKnobs", tags=[3]), [], ["3", "text"]),
        (with_input("ToyShow", lines=100), [], ["'Toy Show'", "lines is 100; allowed is below 100"]),
        (player(), ["--set", "1.nothing=1"], ["no input 'nothing'", "seed"]),
        (player(), ["--set", "Nobody.seed=1"], ["unknown node 'Nobody'", "1 'Toy Knobs'"]),
        (player(), ["--set", "1.seed"], ["'1.seed'", "NODE.INPUT=VALUE"]),
        (player(), ["--set", "seed=1"], ["NODE.INPUT=VALUE"]),
        (player(), ["--set", "1.seed=x"], ["'x'", "whole number"]),
        (player(), ["--set", "1.volume=loud"], ["'loud'", "a number"]),
        (player(), ["--set", "1.live=maybe"], ["'maybe'", "true or false"]),
        (player(), ["--set", "1.mode=x"], ["'x'", "ode, sde"]),
        (player(), ["--set", "2.toy=x"], ["takes a TOY", "link"]),
        (two_knobs(), ["--set", "ToyKnobs.seed=1"], ["2 nodes", "1, 9"]),
        (circle(), [], ["circle", "1 -> 9 -> 1"]),
        (api(n1=("ToyKnobs", KNOBS)), [], ["no active output node", "SaveAudio"]),
        ({}, [], ["neither", "class_type"]),
        ([1], [], ["JSON list"]),
        ("{ no json", [], ["no JSON"]),
        (api(n1=("LoadAudio", {"audio": "gone.wav"}), n2=("PreviewAudio", {"audio": ["1", 0]})), [], ["gone.wav"]),
    ],
)
def test_refusals_before_anything_runs(ostinato, data, arguments, words):
    refused(ostinato(data, *arguments), *words)
    assert ToyPlay.runs == [] and not Path("out").exists()


def test_an_unreadable_file(ostinato, tmp_path):
    refused(ostinato(tmp_path / "none.json"), "none.json", "cannot be read")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x81")
    refused(ostinato(tmp_path / "binary.json"), "no JSON")


@pytest.mark.parametrize(
    "error, code, word",
    [
        ("known", 1, "depth is 9"),
        ("disk", 1, "No space left"),
        ("memory", 1, "memory ran out"),
        ("interrupt", 130, "stopped"),
    ],
)
def test_errors_while_running(ostinato, error, code, word):
    result = ostinato(api(n1=("ToyFail", {"error": error})))
    assert result.exit_code == code and word in result.stderr and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_a_bug_keeps_its_traceback_and_names_the_node(ostinato):
    result = ostinato(api(n1=("ToyFail", {"error": "bug"})))
    assert result.exit_code == 1
    assert isinstance(result.exception.__cause__, ZeroDivisionError) and "node 1" in str(result.exception)


def test_load_audio_looks_beside_the_workflow_then_in_the_input_folder_first(ostinato, tmp_path):
    data = api(n1=("LoadAudio", {"audio": "a.wav [input]"}), n2=("SaveAudio", {"audio": ["1", 0]}))
    data["2"]["inputs"]["filename_prefix"] = "copy"
    for folder, level in (("flow", 0.25), ("in", 0.5)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", np.full((10, 3), level), 8000, subtype="FLOAT")
    assert ostinato(data).exit_code == 0
    assert ostinato(data, "--input", "in").exit_code == 0
    for number, level in ((1, 0.25), (2, 0.5)):
        sound, rate = soundfile.read(f"out/copy_0000{number}_.flac")
        assert rate == 8000 and sound.shape == (10, 3) and np.allclose(sound, level)
    (tmp_path / "in" / "a.wav").write_bytes(b"no audio")
    refused(ostinato(data, "--input", "in"), "a.wav", "cannot be read as audio")


@pytest.mark.parametrize("prefix", ["../escape", "/escape", "", ".", "a/.."])
def test_files_stay_inside_the_output_folder(tmp_path, prefix):
    with use_folders(Folders(tmp_path / "out")), pytest.raises(InputError, match="prefix"):
        next_file(prefix, ".flac")
    assert not list(tmp_path.iterdir())


def test_file_numbers_count_on_and_dates_are_filled_in(tmp_path):
    for name in ("a_00004_.png", "a_7_.flac", "a_b_00009_.flac", "a.txt"):
        (tmp_path / name).touch()
    with use_folders(Folders(tmp_path)):
        assert next_file("a", ".flac").name == "a_00008_.flac"
        assert re.fullmatch(r"t-\d{4}-\d\d_00001_\.flac", next_file("t-%year%-%month%", ".flac").name)


@pytest.mark.parametrize("waveform", [torch.zeros(1, 9, 5), torch.zeros(1, 2, 0), torch.full((1, 1, 4), torch.nan)])
def test_audio_that_no_file_can_hold(tmp_path, waveform):
    from ostinato.cli.core_nodes import write_audio

    with use_folders(Folders(tmp_path)), pytest.raises(InputError):
        write_audio({"waveform": waveform, "sample_rate": 48000}, "x")


def test_nodes_ask_their_host(tmp_path):
    seen = []
    installed = host.Host(progress=lambda *progress: seen.append(progress), device="cpu")
    with host.use(installed), use_folders(Folders(tmp_path)):
        assert host.device_choice() == "cpu"
        run_graph(
            parse(api(n1=("ToyKnobs", KNOBS), n2=("ToyPlay", {"toy": ["1", 0], "ticks": 2})) | shown(), TYPES), TYPES
        )
    assert seen == [(1, 2, "2"), (2, 2, "2")]
    assert host.device_choice() == "auto"

    def cancelled():
        raise KeyboardInterrupt

    with host.use(host.Host(cancelled=cancelled)), pytest.raises(KeyboardInterrupt):
        host.check_cancelled()
    host.check_cancelled()


def shown():
    return api(n3=("ToyDraw", {"any": ["2", 1]}))


def test_progress_in_comfyui_is_not_sent_for_every_tick():
    sent = []
    progress = host.throttled(lambda done, total, node_id: sent.append(done))
    for done in range(1001):
        progress(done, 1000, "1")
    assert sent[0] == 0 and sent[-1] == 1000 and len(sent) < 100


def test_a_bar_shows_the_running_node_on_a_terminal(capsys):
    with terminal.Bar(enabled=True) as bar:
        bar.start(parse(player(), TYPES).nodes["2"])
        bar.progress(3, 4, "2")
        assert (bar.bar.n, bar.bar.total) == (3, 4)
    assert "Toy Play" in capsys.readouterr().err


def test_nodes_lists_ids_and_descriptions(ostinato):
    result = CliRunner().invoke(main.app, ["nodes"])
    assert result.exit_code == 0
    assert re.search(r"^ToyPlay +Plays a toy\.$", result.stdout, re.MULTILINE)
    assert re.search(r"^LoadAudio +Reads an audio file\.$", result.stdout, re.MULTILINE)


def test_usage_errors_exit_with_2(ostinato):
    assert ostinato(player(), "--device", "tpu").exit_code == 2
    assert CliRunner().invoke(main.app, ["run"]).exit_code == 2


def test_help_does_not_load_torch():
    code = "import sys; from ostinato.cli import main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
