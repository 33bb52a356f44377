"""A workflow as an instrument: what a moved widget reaches, what it costs, and what cannot be turned from afar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from ostinato.cli import live
from ostinato.cli.core_nodes import Folders, next_file, use_folders
from ostinato.cli.graph import WorkflowError
from ostinato.cli.main import all_types, app
from ostinato.cli.settings import apply_settings
from ostinato.cli.workflow import load_json, parse
from ostinato.engine_runtime.errors import InputError, SessionError
from ostinato.engine_runtime.live.score import Cost, cost
from ostinato.nodes.shared import host, live_graph
from ostinato.nodes.shared.live_graph import LiveGraph

from ...examples import ALL, example, name_of, put_short_clip

# those whose music ComfyUI makes, or whose engine is built first
ELSEWHERE = ("build_engine", "layer_profile", "load_engine", "native_cover", "native_drop_in", "native_repaint")
PLAYED = [name for name in map(name_of, ALL) if name not in ELSEWHERE]


@pytest.fixture
def instrument(cache: None, tmp_path: Path) -> Iterator[Callable[..., LiveGraph]]:
    """`instrument(name, *settings)`: an example workflow on a random model, played live."""
    with use_folders(Folders(tmp_path, (tmp_path,))), host.use(host.Host(device="cpu", next_file=next_file)):

        def make(name: str, *settings: str, node: str | None = None) -> LiveGraph:
            put_short_clip(tmp_path, 2.5 if name == "curves_from_a_clip" else 1.0)  # beats take longer to be found
            types = all_types()
            graph = parse(load_json(example(name)), types)
            model = "random-base" if "base" in name or "guidance" in name else "random"
            apply_settings(graph, types, [f"OstinatoLoadModel.model={model}", *settings])
            return live.live_graph(graph, types, node, "loop", lambda title: None)

        yield make


def place(graph: LiveGraph, name: str) -> tuple[str, str]:
    """The widget of a name; `seed` is that of the ring."""
    found = [(w["node"], w["input"]) for w in graph.widgets() if w["input"] == name]
    return found[-1] if name == "seed" else found[0]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of the nodes that run from now on."""
    names: list[str] = []
    real = live_graph.run_node

    def noted(cls: Any, given: Any, hidden: Any) -> Any:
        names.append(cls.GET_SCHEMA().node_id)
        return real(cls, given, hidden)

    monkeypatch.setattr(live_graph, "run_node", noted)
    return names


@pytest.mark.parametrize("name", PLAYED)
def test_every_example_is_an_instrument(instrument: Callable[..., LiveGraph], name: str) -> None:
    graph = instrument(name)
    assert graph.score.frames > 0 and len(graph.widgets()) > 5
    widget = place(graph, "seed")
    before = graph.score
    assert cost(before, graph.turn({widget: graph.check(widget, 123)})) is Cost.SLOT
    assert graph.score.condition is before.condition


@pytest.mark.parametrize(
    ("name", "value", "wanted", "runs"),
    [
        ("dcw_low", 0.2, Cost.TICK, ["OstinatoDcw"]),
        ("first", 3, Cost.TICK, ["OstinatoChannelGain", "OstinatoDcw"]),
        ("depth", 2, Cost.TICK, []),
        ("seed", 5, Cost.SLOT, []),
        ("steps", 4, Cost.SLOT, []),
        ("tags", "slow strings", Cost.SLOT, ["OstinatoEncodePrompt"]),
        ("seconds", 4.0, Cost.RING, ["OstinatoEncodePrompt"]),
        ("mode", "endless", Cost.RING, []),
    ],
)
def test_only_what_a_widget_reaches_runs_again(
    instrument: Callable[..., LiveGraph], ran: list[str], name: str, value: Any, wanted: Cost, runs: list[str]
) -> None:
    graph = instrument("gain_and_dcw", "OstinatoStreamDenoise.depth=4")
    before, ran[:] = graph.score, []
    widget = place(graph, name)
    after = graph.turn({widget: graph.check(widget, value)})
    assert ran == runs
    assert cost(before, after) is wanted
    assert next(w["value"] for w in graph.widgets() if (w["node"], w["input"]) == widget) == value


def test_a_cancel_that_a_node_took_is_told_and_the_next_turn_plays(
    instrument: Callable[..., LiveGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI's is no `Exception`, so that no node keeps it: the thread that turns widgets would end."""

    class Cancel(BaseException):
        pass

    def cancelled(*given: Any) -> Any:
        raise Cancel

    @contextmanager
    def spared() -> Iterator[None]:
        try:
            yield
        except Cancel:
            raise SessionError("a Cancel came", "it is for others", "turn it again") from None

    graph = instrument("gain_and_dcw")
    place_of, score = place(graph, "dcw_low"), graph.score
    with host.use(host.Host(device="cpu", spared=spared)):
        for of, name in ((live_graph, "run_node"), (graph._scorer, "score")):
            with monkeypatch.context() as patch:
                patch.setattr(of, name, cancelled)
                with pytest.raises(SessionError):
                    graph.turn({place_of: 0.3})
            assert graph.score is score
        assert graph.turn({place_of: 0.3}) is not score


def test_a_node_that_refuses_leaves_all_as_it_was(instrument: Callable[..., LiveGraph]) -> None:
    graph = instrument("text_to_music")
    before, widgets = graph.score, graph.widgets()
    tags, seed = place(graph, "tags"), place(graph, "seed")
    for wrong in ("   ", "word " * 400):
        with pytest.raises(InputError):
            graph.turn({seed: 99, tags: wrong})
        assert graph.score is before and graph.widgets() == widgets
    assert cost(before, graph.turn({seed: 99})) is Cost.SLOT


def test_what_names_files_or_weights_is_not_turned_from_afar(instrument: Callable[..., LiveGraph]) -> None:
    graph = instrument("text_to_music")
    listed = {(w["node"], w["input"]) for w in graph.widgets()}
    hidden = [("2", "model"), ("2", "download"), ("2", "device"), ("3", "kind"), ("5", "count"), ("session", "model")]
    for widget in [*hidden, ("99", "seed"), ("", ""), ("4", "__class__")]:
        assert widget not in listed
        with pytest.raises(InputError, match="no live widget"):
            graph.check(widget, 1)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("seed", 1.5),
        ("seed", -1),
        ("seed", True),
        ("seed", "1"),
        ("shift", float("nan")),
        ("shift", 1e9),
        ("solver", "rk4"),
        ("solver", ["ode"]),
        ("tags", "a" * 20_001),
        ("tags", "a\0b"),
        ("tags", "\ud800"),
        ("tags", 3),
        ("mode", "sideways"),
    ],
)
def test_a_value_that_a_widget_does_not_take(instrument: Callable[..., LiveGraph], name: str, wrong: Any) -> None:
    graph = instrument("text_to_music")
    with pytest.raises(InputError):
        graph.check(place(graph, name), wrong)


def with_session(tmp_path: Path, *, denoise: bool = True) -> Path:
    """`gain_and_dcw`'s ring as a Live Session, beside its Stream Denoise or in its place, as ComfyUI saves it."""
    types = all_types()
    prompt = parse(load_json(example("gain_and_dcw")), types).to_api()
    number, ring = next((n, node) for n, node in prompt.items() if node["class_type"] == "OstinatoStreamDenoise")
    model = next(n for n, node in prompt.items() if node["class_type"] == "OstinatoLoadModel")
    prompt[model]["inputs"]["model"] = "random"
    prompt[number]["inputs"] |= {"count": 1, "depth": 1, "steps": 2}
    inputs = {name: value for name, value in ring["inputs"].items() if name != "count"}
    more = {"model": [model, 0], "mode": "endless", "given.77.0": ["77", 0], "given_at": 1.0}
    prompt["99"] = {"class_type": "OstinatoLiveSession", "inputs": inputs | more}
    if not denoise:
        later = {number}
        for n, node in prompt.items():
            if any(isinstance(value, list) and value[0] in later for value in node["inputs"].values()):
                later.add(n)
        prompt = {n: node for n, node in prompt.items() if n not in later}
    path = tmp_path / "session.json"
    path.write_text(json.dumps(prompt), encoding="utf-8")
    return path


def test_a_live_session_goes_before_a_ring_and_has_its_own_mode(
    instrument: Callable[..., LiveGraph], tmp_path: Path
) -> None:
    types = all_types()
    for node, mode, playing, wanted in (
        (None, None, "99", "endless"),
        ("OstinatoLiveSession", "loop", "99", "loop"),
        ("OstinatoStreamDenoise", None, "session", "loop"),
        ("OstinatoStreamDenoise", "endless", "session", "endless"),
    ):
        graph = live.live_graph(parse(load_json(with_session(tmp_path)), types), types, node, mode, lambda title: None)
        assert graph.score.mode == wanted
        modes = [widget for widget in graph.widgets() if widget["input"] == "mode"]
        assert [(widget["node"], widget["value"]) for widget in modes] == [(playing, wanted)]
        other = "loop" if wanted == "endless" else "endless"
        assert graph.turn({(playing, "mode"): graph.check((playing, "mode"), other)}).mode == other
        with pytest.raises(InputError, match="no live widget"):
            graph.check(("99" if playing == "session" else "session", "mode"), "loop")


def test_run_says_what_plays_a_live_session_and_runs_the_rest(cache: None, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    for denoise in (True, False):
        out = tmp_path / str(denoise)
        done = CliRunner().invoke(app, ["run", str(with_session(tmp_path, denoise=denoise)), "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "ostinato live" in done.output
        assert bool(list(out.glob("**/*.flac"))) is denoise


def test_a_workflow_without_a_ring_is_refused(instrument: Callable[..., LiveGraph]) -> None:
    with pytest.raises(WorkflowError, match="no node that plays"):
        instrument("text_to_music", node="OstinatoLoadModel")
    with pytest.raises(WorkflowError, match="^--node names an unknown node 'none'"):
        instrument("text_to_music", node="none")


def test_the_page_is_served_to_itself_alone() -> None:
    async def test() -> None:
        runner = web.AppRunner(live.application({}))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://localhost:{runner.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession() as client:
                for name, kind in (("", "text/html"), ("ostinato.js", "javascript"), ("live.css", "text/css")):
                    got = await client.get(f"{address}/{name}")
                    assert got.status == 200 and kind in got.headers["Content-Type"]
                    assert "default-src 'none'" in got.headers["Content-Security-Policy"]
                assert (await client.get(f"{address}/../pyproject.toml")).status == 404
                assert (await client.get(f"{address}/live.html")).status == 404
                assert (await client.get(address, headers={"Host": "evil.example"})).status == 403
        finally:
            await runner.cleanup()

    asyncio.run(test())
