"""What two runs say of each other, what is no run, and the results that are committed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from ostinato.engine_runtime.bench import report
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.plots.bench import SIZE, plot_floor

from .runs import changed, write


def test_a_case_is_slower_only_where_all_rounds_are(found):
    run = changed(found, 10.0)
    verdicts = {ms: report.compare(run, changed(found, ms))[0].verdict for ms in (9.0, 9.85, 10.0, 10.15, 11.0)}
    assert verdicts == {9.0: "faster", 9.85: "same", 10.0: "same", 10.15: "same", 11.0: "slower"}
    (pair,) = report.compare(run, changed(found, 11.0))
    assert pair.ratio == pytest.approx(1.1) and pair.low == pytest.approx(1.1 * 0.99 / 1.01)
    assert pair.high == pytest.approx(1.1 * 1.01 / 0.99) and pair.same_work
    assert "1.100 (1.078 to 1.122)  slower" in pair.text() and json.dumps(pair.as_json())


@pytest.mark.parametrize(("ms", "verdict"), [(9.7, "faster"), (9.81, "same"), (10.19, "same"), (10.3, "slower")])
def test_a_change_of_less_than_two_in_a_hundred_is_none(found, ms, verdict):
    """However sharply the rounds of two runs divide."""
    before, after = (
        changed(found, rounds_ms=[median, median], tick_ms={**found["results"][0]["tick_ms"], "median": median})
        for median in (10.0, ms)
    )
    assert report.compare(before, after)[0].verdict == verdict


def test_runs_pair_by_their_arguments(found):
    other = {**found, "results": found["results"][::-1]}
    assert [pair.ratio for pair in report.compare(found, other)] == [1.0, 1.0]
    assert len(report.compare(found, changed(found))) == 1
    assert report.compare(found, changed(found, work="another"))[0].text().endswith(", other latents")
    for name in ("tokens", "engine", "dcw", "sessions", "ahead"):
        with pytest.raises(InputError, match="no case in common"):
            report.compare(changed(found), changed(found, **{name: "another"}))


def test_runs_of_different_devices_are_refused_unless_forced(found):
    other = {**found, "gpu": "A GPU"}
    with pytest.raises(InputError, match="a CPU and A GPU"):
        report.compare(found, other)
    assert len(report.compare(found, other, force=True)) == 2


BROKEN = {
    "a list": lambda d: [d],
    "no versions": lambda d: {k: v for k, v in d.items() if k != "versions"},
    "results of another kind": lambda d: {**d, "results": {}},
    "a result of another kind": lambda d: {**d, "results": ["x"]},
    "a result without a time": lambda d: changed(d, tick_ms={"median": 1.0}),
    "a text for a time": lambda d: changed(d, tick_ms={**d["results"][0]["tick_ms"], "p95": "fast"}),
    "not a number": lambda d: changed(d, math.nan),
    "a case there is not": lambda d: changed(d, cfg="some"),
    "no joins": lambda d: {**d, "results": [{k: v for k, v in d["results"][0].items() if k != "joins_per_tick"}]},
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_run_is_refused(found, what, tmp_path):
    for text in (json.dumps(BROKEN[what](found)), "{"):
        with pytest.raises(InputError, match="mine.json is no.*ostinato bench --json"):
            report.load(write(tmp_path, text))
    with pytest.raises(InputError, match="none.json cannot be read .*ostinato bench --json.*check the path"):
        report.load(tmp_path / "none.json")


def test_the_picture_has_a_dot_for_every_time(found):
    picture = plot_floor(found)
    assert picture.size == SIZE and picture.tobytes() != plot_floor(changed(found, 1e3)).tobytes()
    assert plot_floor(changed(found, references={})).tobytes() != plot_floor(changed(found)).tobytes()
    for odd in (changed(found, floor_ms=None), changed(found, 0.0), {**found, "results": []}):
        assert plot_floor(odd).size == SIZE


# --- what is committed -----------------------------------------------------------------------------------------------

RESULTS = sorted((Path(__file__).resolve().parents[3] / "engine_runtime" / "bench" / "results").glob("*/*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_committed_result_is_read_as_the_command_wrote_it(path):
    text = path.read_text(encoding="utf-8")
    if '"results"' not in text:
        assert "ostinato" in json.loads(text)["command"]
        return
    run = report.load(path)
    assert len(report.table(run).splitlines()) == 3 + len(run["results"]) and run["gpu"]


def test_results_are_committed():
    assert RESULTS
