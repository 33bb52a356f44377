"""A Live Session in a real ComfyUI: started by the queue, turned beside it, updated, ended."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from .client import PromptError
from .live import Listener, loudness, workflow

SECOND, LOOP = 48_000, 96_000  # samples; of the workflow's two seconds


def queue(comfy, graph, workflow_id: str | None = None):
    """Run a prompt as the page does; returns the result and the names of its live sessions."""
    extra = {} if workflow_id is None else {"extra_data": {"extra_pnginfo": {"workflow": {"id": workflow_id}}}}
    body = {"prompt": graph, "client_id": comfy.client.client_id} | extra
    done = comfy.client.wait(json.loads(comfy.client.request("/prompt", body))["prompt_id"])
    return [item["session"] for item in done.files("ostinato_live")]


def sessions(comfy) -> dict[str, str]:
    return comfy.client.get("/ostinato/live")


@pytest.fixture
def ended(comfy):
    """Every session that a test leaves is ended after it."""
    yield
    for name in sessions(comfy):
        with Listener(comfy.server.address, name, start=False) as listener:
            listener.send(type="end")
            listener.until(lambda: listener.closed)
    assert sessions(comfy) == {}


def alike(listener: Listener, at: int, other: int) -> float:
    """The correlation of one second of sound with another, whatever their loudness."""
    first, second = (listener.sound[place : place + SECOND].astype(float).ravel() for place in (at, other))
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def gap(listener: Listener, start: int) -> int:
    """The longest run of silent samples after a position."""
    silent = np.abs(listener.sound[start : listener.end].astype(int)).max(axis=1) < 2
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def test_a_run_of_the_queue_starts_music_that_widgets_turn_beside_it(comfy, ended):
    assert queue(comfy, workflow()) == ["5"]
    with Listener(comfy.server.address, "5") as listener:
        assert loudness(listener.hear(3.0)) > 0.01
        at = listener.end - SECOND
        listener.hear(2.0)
        assert alike(listener, at, at + LOOP) > 0.9  # it goes round
        taken = listener.turn("4", "velocity_scale", 0.2)
        assert taken["cost"] == "tick" and taken["change"] > 0
        listener.until(lambda: listener.hot >= taken["change"])
        listener.hear(4.0)
        assert alike(listener, at, at + (listener.end - SECOND - at) // LOOP * LOOP) < 0.9
        assert listener.turn("3", "tags", "slow strings")["cost"] == "slot"
        assert listener.turn("5", "mode", "endless")["cost"] == "ring"
    assert comfy.client.get("/queue") == {"queue_running": [], "queue_pending": []}


def test_a_second_run_updates_the_session_without_a_gap(comfy, ended):
    graph = workflow()
    assert queue(comfy, graph, "set of friday") == ["set of friday.5"]
    with Listener(comfy.server.address, "set of friday.5") as listener:
        listener.hear(1.0)
        start, epoch = listener.end, listener.epoch
        for inputs in ({"depth": 2}, {"seed": 8}, {}):
            graph["5"]["inputs"] |= inputs
            assert queue(comfy, graph, "set of friday") == ["set of friday.5"]
        graph["3"]["inputs"]["seconds"] = 3.0  # another ring
        queue(comfy, graph, "set of friday")
        changed = listener.hot
        listener.until(lambda: listener.hot > changed)
        listener.hear(1.0)
        assert listener.epoch == epoch and not listener.closed
        assert gap(listener, start) < 4800 and listener.of("figures")[-1]["dry"] == 0
        widgets = listener.of("welcome")[0]["widgets"]
        assert {w["input"]: w["value"] for w in widgets if w["node"] == "5"}["depth"] == 1
    with Listener(comfy.server.address, "set of friday.5", start=False) as listener:
        now = {(w["node"], w["input"]): w["value"] for w in listener.welcome["widgets"]}
        assert (now["5", "depth"], now["5", "seed"], now["3", "seconds"]) == (2, 8, 3.0)


def test_free_gives_the_memory_back_and_start_goes_on(comfy, ended):
    queue(comfy, workflow())
    with Listener(comfy.server.address, "5") as listener:
        listener.hear(1.0)
        comfy.client.free()
        listener.until(lambda: listener.state == "paused" and listener.of("figures")[-1]["resting"])
        stopped = listener.end
        listener.send(type="start")
        listener.until(lambda: listener.end > stopped + 48_000)
        assert listener.state == "playing" and not listener.of("figures")[-1]["resting"]
        assert loudness(listener.sound[stopped : stopped + 48_000]) > 0.01
        assert listener.turn("3", "tags", "slow strings")["cost"] == "slot"


def test_a_job_that_needs_the_memory_gets_it_and_the_music_comes_back_by_itself(comfy, ended, tmp_path):
    queue(comfy, workflow())
    with Listener(comfy.server.address, "5") as listener:
        listener.hear(1.0)
        for seed in (1, 2):
            until = tmp_path / str(seed)
            needs = {"seconds": 120.0, "seed": seed, "until": str(until)}
            job = comfy.client.submit({"1": {"class_type": "BorderNeedsAll", "inputs": needs}})
            listener.until(lambda: listener.of("figures")[-1]["resting"])
            assert listener.state == "playing"
            stopped, now = -1, listener.end
            while now != stopped:  # the last window is still made
                time.sleep(1.5)
                stopped, now = now, listener.end
            assert comfy.client.running(job)
            until.touch()
            assert comfy.client.wait(job).files("loaded") == []
            listener.hear(1.5)
            assert not listener.of("figures")[-1]["resting"] and not listener.of("failed")
            assert loudness(listener.sound[stopped : stopped + 72_000]) > 0.01
        assert listener.turn("3", "tags", "slow strings")["cost"] == "slot"


def test_cancel_of_its_own_run_leaves_nothing_half(comfy, ended, streaming):
    graph, node = streaming
    graph[node]["inputs"] |= {"count": 1, "steps": 1000}
    model = next(number for number, told in graph.items() if told["class_type"] == "OstinatoLoadModel")
    ring = {name: value for name, value in graph[node]["inputs"].items() if name != "count"} | {"steps": 2}
    own = {"model": [model, 0], "mode": "loop", "source": [node, 0], "denoise": 0.5}
    graph["live"] = {"class_type": "OstinatoLiveSession", "inputs": ring | own}
    for before in ({}, {"live": "ready"}):
        job = comfy.client.submit(graph)
        with comfy.client.events() as events:
            events.wait_for("progress_state", lambda data: data["nodes"].get(node, {}).get("value", 0) > 1)
        comfy.client.interrupt()
        with pytest.raises(PromptError, match="interrupted"):
            comfy.client.wait(job)
        assert sessions(comfy) == before
        graph[node]["inputs"]["steps"] = 2
        queue(comfy, graph)
        graph[node]["inputs"]["steps"] = 1000
    with Listener(comfy.server.address, "live") as listener:
        assert loudness(listener.hear(0.5)) > 0.0


def test_values_come_from_the_cache_and_from_nodes_of_others(comfy, ended):
    graph = workflow()
    graph["1"]["inputs"]["model"] = "random"  # a model of this test alone: the cache has none of it
    graph["9:1"] = {"class_type": "PrimitiveInt", "inputs": {"value": 97}}
    graph["3"]["inputs"]["bpm"] = ["9:1", 0]
    graph["9:2"], graph["9:3"] = graph.pop("3"), graph.pop("4")
    graph["5"]["inputs"] |= {"condition": ["9:2", 0], "knobs": ["9:3", 0]}
    session = graph.pop("5")
    graph["7"] = {"class_type": "PreviewAny", "inputs": {"source": ["9:2", 0]}}
    comfy.client.run(graph)
    graph["5"] = session
    with comfy.client.events() as events:
        job = comfy.client.submit(graph)
        comfy.client.wait(job)
        cached = events.wait_for("execution_cached", lambda data: data["prompt_id"] == job)["nodes"]
    assert {"1", "9:1", "9:2"} <= set(cached)  # the session was made of values that were there
    with Listener(comfy.server.address, "5") as listener:
        listener.hear(0.5)
        places = {(widget["node"], widget["input"]) for widget in listener.welcome["widgets"]}
        assert ("9:2", "tags") in places and ("9:2", "bpm") not in places and ("9:1", "value") not in places
        assert listener.turn("9:2", "tags", "slow strings")["cost"] == "slot"
        assert listener.turn("9:3", "velocity_scale", 0.4)["cost"] == "tick"
        listener.hear(1.0)


def test_cancel_of_another_job_leaves_the_music_alone(comfy, ended, streaming):
    queue(comfy, workflow())
    with Listener(comfy.server.address, "5") as listener:
        listener.hear(1.0)
        graph, node = streaming
        graph[node]["inputs"] |= {"count": 256, "steps": 50}
        job = comfy.client.submit(graph)
        listener.until(lambda: comfy.client.running(job))
        assert listener.turn("3", "tags", "piano")["cost"] == "slot"  # its nodes run while the Cancel is pressed
        comfy.client.interrupt()
        assert listener.turn("3", "tags", "slow strings")["cost"] == "slot"
        with pytest.raises(PromptError, match="interrupted"):
            comfy.client.wait(job)
        listener.hear(1.0)
        assert listener.state == "playing" and not listener.of("failed")


def test_two_sessions_play_beside_a_job(comfy, ended, streaming):
    queue(comfy, workflow(), "one")
    queue(comfy, workflow(), "two")
    assert set(sessions(comfy)) == {"one.5", "two.5"}
    with Listener(comfy.server.address, "one.5") as one, Listener(comfy.server.address, "two.5") as two:
        one.hear(0.5)
        two.hear(0.5)
        comfy.client.run(streaming[0])
        for listener in (one, two):
            assert loudness(listener.hear(0.5)) > 0.005
        one.send(type="end")
        one.until(lambda: one.closed)
        assert set(sessions(comfy)) == {"two.5"}
        two.hear(0.5)


def test_what_cannot_play_is_said_at_the_node_and_the_old_plays_on(comfy, ended, errors_expected):
    queue(comfy, workflow())
    with Listener(comfy.server.address, "5") as listener:
        listener.hear(0.5)
        with pytest.raises(PromptError, match="0.4|frames") as refused:
            graph = workflow()
            graph["3"]["inputs"]["seconds"] = 0.4
            queue(comfy, graph)
        assert refused.value.node_id in ("3", "5")
        assert loudness(listener.hear(1.0)) > 0.01


def test_a_page_of_another_site_hears_nothing(comfy, ended):
    import websocket

    queue(comfy, workflow())
    for path in ("/ostinato/live/5/socket", "/api/ostinato/live/5/socket"):
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            websocket.create_connection(f"ws://{comfy.server.address}{path}", origin="http://evil.example")


def test_comfyuis_own_model_plays_and_is_let_go(comfy, ended, models):
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    ring = {"depth": 1, "steps": 1, "shift": 3.0, "denoise": 1.0, "seed": 3, "seed_step": 0, "mode": "loop"}
    parts = {"engine": ["model", 0], "condition": ["plus", 0], "source": ["latent", 0], "model": ["voice", 0]}
    graph = {
        "model": node("UNETLoader", unet_name=models[0], weight_dtype="default"),
        "plus": node("BorderConditioning", seed=1, tokens=5, lyrics=4, codes=0),
        "latent": node("BorderLatent", seed=5, frames=32, batch=1, empty=True, masked=False),
        "voice": node("OstinatoLoadModel", model="random", precision="auto", device="cpu", download=False),
        "live": node("OstinatoLiveSession", **parts, **ring),
    }
    assert queue(comfy, graph) == ["live"]
    with Listener(comfy.server.address, "live") as listener:
        assert loudness(listener.hear(1.0)) > 0.0
        assert {widget["node"] for widget in listener.welcome["widgets"]} == {"live"}
        assert listener.turn("live", "seed", 4)["cost"] == "slot"
        comfy.client.free()
        listener.until(lambda: listener.state == "paused" and listener.of("figures")[-1]["resting"])
        stopped = listener.end
        listener.send(type="start")
        listener.until(lambda: listener.end > stopped + 48_000)
        assert not listener.of("failed")
