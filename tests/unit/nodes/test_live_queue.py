"""A Live Session as ComfyUI's queue runs it: the values that come with the prompt, and what of them is run again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.live.score import Cost, cost
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.serve.sessions import Sessions
from ostinato.nodes.shared import host, live_graph, live_queue
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.live_graph import From, LiveGraph
from ostinato.nodes.shared.run import run_node

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture
def prompt() -> Prompt:
    """A foreign node gives the tempo; 7 and 8 are not before the session; ids as of a subgraph."""
    words = {"tags": "funk", "lyrics": "[instrumental]", "seconds": 2.0, "key": "", "time_signature": "4"}
    task = {"language": "en", "task": "text2music", "repaint_start": 0.0, "repaint_end": 0.0}
    knobs = {"velocity_scale": 1.0, "ode_noise": 0.0, "sde": 1.0, "target_strength": 0.0}
    walk = {"steps": 2, "shift": 3.0, "denoise": 1.0, "seed": 7, "seed_step": 0, "solver": "ode", "mode": "loop"}
    links = {"engine": ["2", 0], "condition": ["9:3", 0], "knobs": ["4", 0], "model": ["1", 0]}
    return {
        "1": node("OstinatoLoadModel", model="random", precision="auto", device="cpu", download=False),
        "2": node("OstinatoEngine", model=["1", 0], kind="eager", max_rows=16),
        "6": node("OthersTempo", low=60),
        "9:3": node("OstinatoEncodePrompt", model=["1", 0], bpm=["6", 1], **words, **task),
        "4": node("OstinatoKnobs", **knobs, knobs=["9:5", 0]),
        "9:5": node("OstinatoDcw", dcw=True, dcw_mode="low", dcw_low=0.1, dcw_high=0.0, dcw_wavelet="haar"),
        "5": node("OstinatoLiveSession", depth=1, **links, **walk),
        "7": node("OstinatoStreamDenoise", count=1, depth=1, engine=["2", 0], condition=["9:3", 0], **walk),
        "8": node("SaveAudio", audio=["7", 0]),
    }


@pytest.fixture
def run(cache: None) -> Iterator[Callable[..., list[Any]]]:
    """`run(prompt)` runs it as the queue would: the inputs that the Live Session is given."""

    def outputs(prompt: Prompt, number: str, done: dict[str, tuple[Any, ...]]) -> tuple[Any, ...]:
        if number not in done:
            told = prompt[number]
            given = {
                name: outputs(prompt, value[0], done)[value[1]] if isinstance(value, list) else value
                for name, value in told["inputs"].items()
            }
            if told["class_type"] == "OthersTempo":
                done[number] = ("unused", 96)
            elif told["class_type"] == "OstinatoLiveSession":
                done[number] = (given,)
            else:
                cls = live_queue.pack()[told["class_type"]]
                done[number] = run_node(cls, given, {io.Hidden.unique_id: number}).args
        return done[number]

    with host.use(host.Host(device="cpu")), torch.inference_mode(), registry.fresh(Sessions):
        yield lambda prompt, done=None: outputs(prompt, "5", {} if done is None else done)[0]
        live_queue.sessions().close()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of the nodes that run again."""
    names: list[str] = []

    def noted(cls: Any, given: Any, hidden: Any) -> Any:
        names.append(cls.GET_SCHEMA().node_id)
        return run_node(cls, given, hidden)

    monkeypatch.setattr(live_graph, "run_node", noted)
    return names


def queued(prompt: Prompt) -> Prompt:
    made: Prompt = live_queue.with_links({"prompt": copy.deepcopy(prompt)})["prompt"]
    return made


def test_a_prompt_brings_the_links_into_the_nodes_before_its_session_and_no_other(prompt: Prompt) -> None:
    made = queued(prompt)
    more = {name: value for name, value in made["5"]["inputs"].items() if name not in prompt["5"]["inputs"]}
    assert isinstance(more.pop("given_at"), float)
    # links of the session itself come anyway; what the foreign node takes is its own
    assert more == {"given.6.1": ["6", 1], "given.9:5.0": ["9:5", 0]}
    assert {number: told for number, told in made.items() if number != "5"} == {
        number: told for number, told in prompt.items() if number != "5"
    }
    again = live_queue.with_links({"prompt": copy.deepcopy(made)})["prompt"]["5"]["inputs"]
    assert {**again, "given_at": 0} == {**made["5"]["inputs"], "given_at": 0}


def test_nothing_runs_again_until_a_widget_moves(prompt: Prompt, run: Any, ran: list[str]) -> None:
    made = queued(prompt)
    graph = LiveGraph(live_queue.cells_of(made, "5", run(made)), "5")
    assert ran == [] and graph.tempo.bpm == 96.0
    before = graph.score
    usual = {(w["node"], w["input"]): w["cost"] for w in graph.widgets()}
    for (place, value), (spent, runs) in {
        (("9:5", "dcw_low"), 0.2): (Cost.TICK, ["OstinatoDcw", "OstinatoKnobs"]),
        (("4", "velocity_scale"), 0.5): (Cost.TICK, ["OstinatoKnobs"]),
        (("9:3", "tags"), "slow strings"): (Cost.SLOT, ["OstinatoEncodePrompt"]),
        (("9:3", "seconds"), 3.0): (Cost.RING, ["OstinatoEncodePrompt"]),
        (("5", "seed"), 8): (Cost.SLOT, []),
        (("5", "depth"), 2): (Cost.TICK, []),
        (("5", "mode"), "endless"): (Cost.RING, []),
    }.items():
        ran.clear()
        after = graph.turn({place: graph.check(place, value)})
        assert cost(before, after) is spent and ran == runs
        assert usual[place] == spent.name.lower()
        before = after
    assert before.knobs.dcw_low == 0.2 and before.knobs.velocity_scale == 0.5 and before.sampling.seed == 8


def test_what_a_foreign_node_gives_is_kept_and_its_widgets_are_not_live(prompt: Prompt, run: Any) -> None:
    made = queued(prompt)
    graph = LiveGraph(live_queue.cells_of(made, "5", run(made)), "5")
    places = {(w["node"], w["input"]) for w in graph.widgets()}
    assert ("6", "low") not in places and ("9:3", "bpm") not in places and ("9:3", "tags") in places
    assert not {name for _, name in places if live_queue.is_given(name)}
    with pytest.raises(InputError):
        graph.check(("6", "low"), 3)


def test_a_prompt_that_came_past_the_handler_plays_with_what_is_known(prompt: Prompt, run: Any, ran: list[str]) -> None:
    given = run(prompt)
    ran.clear()
    graph = LiveGraph(live_queue.cells_of(prompt, "5", given), "5")
    # 4 and 9:3 take what is not known, and what 9:5 gives would not be heard
    assert {w["node"] for w in graph.widgets()} == {"5"} and ran == []
    before = graph.score
    assert cost(before, graph.turn({("5", "seed"): 9})) is Cost.SLOT


def test_an_equal_run_changes_nothing_that_plays(prompt: Prompt, run: Any) -> None:
    done: dict[str, tuple[Any, ...]] = {}
    made = queued(prompt)
    first = LiveGraph(live_queue.cells_of(made, "5", run(made, done)), "5")
    made = queued(prompt)
    done.pop("5")  # the queue kept all else
    second = LiveGraph(live_queue.cells_of(made, "5", run(made, done)), "5", before=first)
    assert cost(first.score, second.score) is Cost.NOTHING and first.score.vae is second.score.vae


def test_play_names_the_session_by_workflow_and_node(prompt: Prompt, run: Any) -> None:
    made = queued(prompt)
    given = run(made)
    names = []
    for workflow in ({"workflow": {"id": "b1f2"}}, {"workflow": {"id": "b1f2"}}, {"workflow": {}}, None, {}):
        hidden = io.HiddenHolder("5", made, workflow)
        names.append(live_queue.play(hidden, given))
    for odd in ({"workflow": {"id": 7}}, {"workflow": {"id": "x" * 99}}, {"workflow": ["id"]}):
        names.append(live_queue.session_name(io.HiddenHolder("5", made, odd)))
    assert names == ["b1f2.5", "b1f2.5", *["5"] * 6]
    assert set(live_queue.sessions()) == {"b1f2.5", "5"}


def test_the_engine_is_brought_by_the_thread_of_the_queue(prompt: Prompt, run: Any, monkeypatch: Any) -> None:
    made = queued(prompt)
    given = run(made)
    calls: list[str] = []
    engine = given["engine"]
    monkeypatch.setattr(engine, "ready", lambda: calls.append("ready"))
    monkeypatch.setattr(engine, "rest", lambda: calls.append("rest"))
    hidden = io.HiddenHolder("5", made, None)
    live_queue.play(hidden, given)
    assert calls[:2] == ["ready", "rest"]
    voice = live_queue.sessions()["5"].session.score.vae
    live_queue.play(hidden, given)  # the same engine plays, and what was made of the same inputs
    assert calls.count("rest") == 1 and live_queue.sessions()["5"].session.score.vae is voice


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["1", "5", "OstinatoLiveSession"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
nodes = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(["OstinatoLiveSession", "OstinatoKnobs", "Other"]) | json_values,
        "inputs": st.dictionaries(
            st.text(max_size=4), st.tuples(st.sampled_from(["1", "2", "5"]), st.integers(0, 2)).map(list) | json_values
        )
        | json_values,
    }
)


@drawn(st.dictionaries(st.sampled_from(["1", "2", "5", "6:1"]), nodes | json_values) | json_values)
def test_a_damaged_prompt_goes_on_to_comfyui_as_it_came(prompt: Any) -> None:
    sent = json.loads(json.dumps(prompt))
    got = live_queue.with_links({"prompt": sent})["prompt"]
    if not isinstance(prompt, dict):
        assert got == prompt
        return
    for number, told in prompt.items():
        if isinstance(told, dict) and isinstance(told.get("inputs"), dict):
            kept = {name: value for name, value in got[number]["inputs"].items() if name in told["inputs"]}
            assert kept == told["inputs"] and {**got[number], "inputs": 0} == {**told, "inputs": 0}
        else:
            assert got[number] == told


def test_a_source_of_no_known_type_is_passed_over() -> None:
    for kind in (["OstinatoKnobs"], {}, None, 3):
        made = queued({"1": {"class_type": kind, "inputs": {}}, "5": node("OstinatoLiveSession", knobs=["1", 0])})
        assert set(made["5"]["inputs"]) == {"knobs", "given_at"}


def test_a_circle_does_not_hang() -> None:
    made = queued({"1": node("OstinatoKnobs", knobs=["1", 0]), "5": node("OstinatoLiveSession", knobs=["1", 0])})
    assert made["5"]["inputs"]["knobs"] == ["1", 0]
    chain = {str(i): node("OstinatoKnobs", knobs=[str(i + 1), 0]) for i in range(3000)}
    made = queued({**chain, "live": node("OstinatoLiveSession", knobs=["0", 0])})
    assert len(made["live"]["inputs"]) == 1 + 1 + 3000


def test_links_are_equal_by_place() -> None:
    assert From("1", 0) == From("1", 0) != From("1", 1)


def test_what_a_prompt_lacks_is_listed_and_odd_ones_are_passed_over() -> None:
    prompt = {
        "1": {"class_type": "OstinatoLora", "inputs": {"adapter": "gone.safetensors"}, "_meta": {"title": "Style"}},
        "2": {"class_type": "OstinatoLora", "inputs": {"adapter": ["1", 0]}},
        "3": {"class_type": ["x"], "inputs": {"adapter": 1}},
        "4": 5,
        "5": {"class_type": "OstinatoLora", "inputs": None, "_meta": 3},
    }
    (found,) = live_queue.lacking(prompt)
    assert (found["node"], found["title"], found["kind"]) == ("1", "Style", "LoRA")
