"""`ostinato bench` and `ostinato profile`: what they write, and what they refuse."""

from __future__ import annotations

import json

import pytest
from ostinato.cli.main import app
from ostinato.engine_runtime.bench import report
from typer.testing import CliRunner

from ...engine_files import made_up, put
from .runs import changed

FEW = ["--seconds", "1", "--steps", "2", "--tokens", "4", "--ticks", "2", "--device", "cpu"]


def test_the_command_writes_json_shows_it_and_compares(cache, tmp_path):
    kept = tmp_path / "kept.json"
    done = CliRunner().invoke(app, ["bench", "--depth", "1,2", *FEW, "--keep", str(kept), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(kept.read_text()) == json.loads(done.stdout)
    made = report.load(kept)
    assert [one["depth"] for one in made["results"]] == [1, 2]
    given = "--engine eager --depth 1,2 --steps 2 --seconds 1 --tokens 4 --cfg off --every 1 --sessions 1 --ahead 2"
    assert made["command"] == f"ostinato bench {given} --ticks 2 --device cpu --precision auto --json"
    file, slow, plot = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "a.png"
    file.write_text(done.stdout)
    shown = CliRunner().invoke(app, ["bench", "show", str(file), "--plot", str(plot)])
    assert shown.exit_code == 0 and report.table(made) in shown.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    same = CliRunner().invoke(app, ["bench", "compare", str(file), str(file)])
    assert same.exit_code == 0 and same.stdout.count(" same ") == 2
    slow.write_text(json.dumps(changed(made, 1e4)))
    worse = CliRunner().invoke(app, ["bench", "compare", str(file), str(slow), "--json"])
    assert worse.exit_code == 1 and json.loads(worse.stdout)[0]["verdict"] == "slower"
    slow.write_text(json.dumps({**made, "gpu": "A GPU"}))
    assert CliRunner().invoke(app, ["bench", "compare", str(file), str(slow)]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "compare", str(file), str(slow), "--force"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "warp"], "the engine is 'warp'; allowed are eager, compiled, fp8"),
        (["--size", "3b"], "the size is '3b'"),
        (["--size", "2b", "--model", "tiny"], "one of them is allowed"),
        (["--depth", "1,many"], "depth is '1,many'"),
        (["--depth", ""], "depth is ''"),
        (["--depth", "9"], "depth is 9"),
        (["--engine", ","], "nothing to measure"),
        (["--cfg", ""], "nothing to measure"),
        (["--cfg", "some"], "the guidance is 'some'"),
        (["--reference", "magic"], "the reference is 'magic'"),
        (["--ticks", "0"], "ticks is 0"),
        (["--precision", "int8"], "the precision is 'int8'"),
        (["--device", "moon"], "the device is 'moon'"),
    ],
)
def test_the_command_refuses_with_one_sentence(cache, options, told):
    done = CliRunner().invoke(app, ["bench", *FEW, *options])
    assert done.exit_code == 2 and told in done.stderr.splitlines()[-1] and not done.stdout


def test_a_plan_that_cannot_be_opened_is_told(cache, tmp_path):
    plan = put(tmp_path, *made_up("one"))
    done = CliRunner().invoke(app, ["profile", "--engine", str(plan), *FEW])
    assert done.exit_code == 1 and done.stderr.startswith("ostinato: ") and "Traceback" not in done.output
