"""The pages with figures are what the kept files and the templates make: none is written by hand, and none is old."""

import json
import runpy
from pathlib import Path

import pytest
from ostinato.engine_runtime.bench import kept

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        return runpy.run_path(str(SCRIPTS / "results.py"))


@pytest.fixture
def figure(script):
    """What a field in braces becomes."""
    return lambda text: text.format_map(script["fields"]())


def test_pages_are_what_the_files_say(script):
    for path, text in script["pages"]().items():
        assert path.read_text("utf-8") == text, f"{path.name} is old: run python scripts/results.py"


def test_a_page_follows_its_file(script, tmp_path, monkeypatch):
    """Another figure in a file, and the page beside it differs."""
    run = kept.read(kept.RESULTS / "h100-80gb/targets.json")
    run["results"][0]["tick_ms"]["median"] = 77.77
    plain = kept.read
    monkeypatch.setattr(kept, "read", lambda path: run if path.stem == "targets" else plain(path))
    file = script["file"]
    file.cache_clear()
    try:
        changed = {path.name: text for path, text in script["pages"]().items() if path.parent.name != "h200"}
        assert all("77.77" in changed[name] for name in ("benchmarks.md",)), "the table of the targets"
        assert [path for path, text in script["pages"]().items() if path.read_text("utf-8") != text]
    finally:
        file.cache_clear()


def test_every_file_has_a_line_and_every_line_a_file(script, monkeypatch):
    listed = set(script["FILES"])
    assert listed == {f"{path.parent.name}/{path.stem}" for path in kept.RESULTS.glob("*/*.json")}
    monkeypatch.delitem(script["named"].__globals__["FILES"], "h200/again-A1")
    with pytest.raises(LookupError, match="h200/again-A1"):
        script["files"]("h200")


def test_every_field_is_a_figure_of_the_files(figure):
    one = next(r for r in kept.read(kept.RESULTS / "h100-80gb/scaling.json")["results"] if r["depth"] == 8)
    assert figure("{ms[scaling compiled off d8 10s]:.2f}") == f"{one['tick_ms']['median']:.2f}"
    assert figure("{ref[targets compiled off compile-graph]:.2f}") == "1.41"
    assert figure("{more[targets compiled full | targets compiled full]:+.1%}") == "+0.0%"
    assert figure("{at[soak ticks]} {wide[chosen-2b fp8 off]}") == "20000 23"
    for wrong, said in (
        ("{ms[scaling compiled off d3]}", "0 results"),
        ("{ms[targets compiled]}", "2 results"),
        ("{at[soak nothing]}", "nothing"),
    ):
        with pytest.raises(LookupError, match=said):
            figure(wrong)


def test_files_of_fits_are_tabulated(script, tmp_path, monkeypatch):
    part = {"peak_bytes": 6 * 2**30}
    found = {
        **{"size": "2b", "engine": "compiled", "cap_bytes": 7 * 2**30, "gigabytes": 8, "device_bytes": 7.5 * 2**30},
        **{"case": {"depth": 4, "seconds": 60.0, "cfg": "off"}, "fits": True},
        "parts": [{**part, "name": "play"}, {**part, "name": "decode"}],
        "longer": [{"seconds": 240.0, "depth": 4, "fits": False}, {"seconds": 240.0, "depth": 3, "fits": True}],
    }
    short = {**found, "fits": False, "longer": [], "parts": [{**part, "name": "load", "shortage": "no room"}]}
    (tmp_path / "card").mkdir()
    for name, data in (("fits", found), ("short", short)):
        (tmp_path / "card" / f"{name}.json").write_text(json.dumps(data))
        monkeypatch.setitem(script["named"].__globals__["FILES"], f"card/{name}", "")
    monkeypatch.setattr(kept, "RESULTS", tmp_path)
    lines = script["fits"]("card").splitlines()
    assert lines[2] == "| `fits` | 2b | compiled | 4 | 60 | off | 8 | yes | 6.00 | 7.50 | 240 s at depth 3 |"
    assert "| no: load |" in lines[3] and len(lines) == 4
    assert script["runs"]("card").count("\n") == 1, "they are no benchmark's results"


def test_the_kept_figures_are_installed_with_the_package():
    """`ostinato plan` reads them wherever it runs."""
    assert len(kept.runs()) > 15 and all("results" in run for run in kept.runs().values())
    assert '"ostinato.engine_runtime.bench" = ["results/*/*.json"]' in (ROOT / "pyproject.toml").read_text("utf-8")
