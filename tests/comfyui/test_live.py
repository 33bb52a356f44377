"""A Live Session in a real ComfyUI: started by the queue, turned beside it, updated, ended."""

from __future__ import annotations

import json

import pytest

from .live import Listener, loudness, workflow


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


def test_a_run_of_the_queue_starts_music_that_widgets_turn_beside_it(comfy, ended):
    assert queue(comfy, workflow()) == ["5"]
    with Listener(comfy.server.address, "5") as listener:
        assert loudness(listener.hear(1.0)) > 0.01
        taken = listener.turn("4", "velocity_scale", 0.2)
        assert taken["cost"] == "tick" and taken["change"] > 0
        listener.until(lambda: listener.hot >= taken["change"])
        assert listener.turn("3", "tags", "slow strings")["cost"] == "slot"
        assert listener.turn("5", "mode", "endless")["cost"] == "ring"
        assert "seconds" in json.dumps(listener.welcome["widgets"])
