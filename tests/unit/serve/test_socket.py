"""A live session over a real WebSocket on the loopback address: what its clients may do."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import NoReturn

import numpy as np
import pytest
import soundfile
from ostinato.engine_runtime.live.window import Windows
from ostinato.engine_runtime.serve import connection
from ostinato.engine_runtime.serve.messages import Settings
from ostinato.engine_runtime.serve.routes import PREFIX
from ostinato.engine_runtime.serve.share import Share

from .served import Client, Graph, Served


def test_a_client_hears_turns_and_captures(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            welcome = await client.hello()
            assert welcome["widgets"][0]["input"] == "velocity_scale" and not welcome["resumed"]
            await socket.send_json({"type": "start"})
            await client.sound()
            await socket.send_json({"type": "set", "id": 9, "node": "4", "input": "velocity_scale", "value": 0.5})
            taken = await client.until(lambda m: m["type"] == "taken")
            assert (taken["id"], taken["cost"], taken["error"]) == (9, "tick", None)
            while client.hot < taken["change"]:
                await client.next()
            curve = {"points": [[0, 0], [1, 0.5]], "interpolation": "linear"}
            await socket.send_json({"type": "set", "id": 10, "node": "4", "input": "points", "value": curve})
            refused = await client.until(lambda m: m["type"] == "taken" and m["id"] == 10)
            assert "is {'points': [(0.0, 0.0), (1.0, 0.5)], 'interpolation': 'linear'}" in refused["error"]
            await socket.send_json({"type": "capture", "id": 1, "bars": 1})
            captured = await client.until(lambda m: m["type"] == "captured")
            assert captured == {"type": "captured", "id": 1, "files": ["live_00001_.flac"]}
            assert await served.get("live/kept/live_00001_.flac") == (200, b"sound")
            for other in ("live/kept/recording.flac", "live/kept/..%2Flive_00001_.flac", "gone/kept/live_00001_.flac"):
                assert (await served.get(other))[0] == 404
            assert (await served.get("live/kept/live_00001_.flac", Origin="http://evil.example"))[0] == 403
            figures = await client.until(lambda m: m["type"] == "figures" and m["state"] == "playing")
            assert figures["error"] is None and figures["tick"] > 0
            assert figures["mode"] == "loop" and len(figures["slots"]) == figures["depth"]
            steps = max(steps for _, steps in figures["slots"])
            assert all(0 <= done <= steps for done, steps in figures["slots"]) and steps > 0
            assert figures["budget"] == pytest.approx(1e3 * figures["length"] * figures["depth"] / steps)
            await socket.send_json({"type": "pause"})
            await client.until(lambda m: m["type"] == "figures" and m["state"] == "paused")

    asyncio.run(served.run(test))
    assert len(served.kept) == 1


def test_a_client_learns_the_widgets_of_another_run(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            assert (await client.hello())["widgets"][0]["value"] == 1.0
            await client.until(lambda m: m["type"] == "figures")
            other = Graph(served.graph.score)
            other.widgets = lambda: [{"node": "9", "input": "sde", "kind": "number", "value": 0.5}]  # type: ignore[method-assign]
            await asyncio.to_thread(served.control.play, other, time.monotonic())
            listed = await client.until(lambda m: m["type"] == "widgets")
            assert listed == {"type": "widgets", "widgets": other.widgets()}
            await client.until(lambda m: m["type"] == "figures")
            again = await client.until(lambda m: m["type"] in ("widgets", "figures"))
            assert again["type"] == "figures", "once"

    asyncio.run(served.run(test))


def test_a_change_waits_for_a_beat_and_a_recording_holds_it(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.greeted() as (socket, client):
            await socket.send_json({"type": "start"})
            await client.sound()
            await socket.send_json({"type": "record", "id": 1, "on": True})
            began = await client.until(lambda m: m["type"] == "recording")
            assert (began["on"], began["file"]) == (True, "recording.flac")
            assert (await served.get("live/kept/recording.flac"))[0] == 404, "it is not whole yet"
            await socket.send_json({"type": "record", "id": 2, "on": True})
            again = await client.until(lambda m: m["type"] == "recording" and m["id"] == 2)
            assert "one recording runs" in again["error"]
            turn = {"type": "set", "id": 9, "node": "4", "input": "velocity_scale", "value": 0.5, "when": "beat"}
            await socket.send_json(turn)
            queued = await client.until(lambda m: m["type"] == "queued")
            assert (queued["id"], queued["node"], queued["input"]) == (9, "4", "velocity_scale")
            assert queued["position"] > client.end - 2400
            taken = await client.until(lambda m: m["type"] == "taken")
            assert (taken["id"], taken["error"]) == (9, None)
            while client.hot < taken["change"] or client.end < queued["position"]:
                await client.next()
            await client.until(lambda m: m["type"] == "figures" and m["recording"] is not None)
            await socket.send_json({"type": "record", "id": 3, "on": False})
            ended = await client.until(lambda m: m["type"] == "recording" and m["id"] == 3)
            assert (ended["on"], ended["file"]) == (False, "recording.flac")
            assert (await served.get("live/kept/recording.flac"))[1].startswith(b"fLaC")

    asyncio.run(served.run(test))
    samples, rate = soundfile.read(served.folder / "recording.flac", dtype="int16")
    assert rate == 48_000 and len(samples) > 4800 and np.abs(samples).max() > 100


def test_a_set_is_changed_and_saved(served: Served) -> None:
    played = {"when": "bar", "midi": []}
    served.share = Share(Settings(), [{"name": "gone"}], lambda widgets, made: {"when": made.when, "of": widgets})

    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            welcome = await client.hello()
            assert welcome["settings"]["when"] == "now" and welcome["missing"] == [{"name": "gone"}]
            await socket.send_json({"type": "settings", **played})
            await socket.send_json({"type": "settings", "when": "later"})
            await client.until(lambda m: m["type"] == "refused")
        async with served.connect() as socket:
            assert (await Client(socket).hello())["settings"]["when"] == "bar"
        base = f"http://127.0.0.1:{served.port}{PREFIX}"
        saved = await served.client.get(f"{base}/live/workflow")
        assert await saved.json() == {"when": "bar", "of": served.graph.widgets()}
        assert (await served.client.get(f"{base}/other/workflow")).status == 404
        foreign = {"Origin": "http://evil.example"}
        assert (await served.client.get(f"{base}/live/workflow", headers=foreign)).status == 403
        listed = await served.client.post(f"{base}/missing", json={"3": {}, "4": {}})
        assert await listed.json() == [{"name": "3"}, {"name": "4"}]
        assert (await served.client.post(f"{base}/missing", json={}, headers=foreign)).status == 403
        for wrong in (b"[]", b"{", b'{"a": NaN}'):
            assert (await served.client.post(f"{base}/missing", data=wrong)).status == 400

    asyncio.run(served.run(test))


def test_a_session_without_a_file_keeps_no_settings(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            assert "settings" not in await client.hello()
            await socket.send_json({"type": "settings"})
            assert "node" in (await client.until(lambda m: m["type"] == "refused"))["error"]
        assert (await served.client.get(f"http://127.0.0.1:{served.port}{PREFIX}/live/workflow")).status == 404

    asyncio.run(served.run(test))


def test_who_comes_back_goes_on_where_it_was(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            welcome = await client.hello()
            await socket.send_json({"type": "start"})
            await client.sound(1.0)
        end = client.end
        async with served.connect() as socket:
            again = Client(socket)
            back = await again.hello(session=welcome["session"], epoch=client.epoch, position=end)
            assert back["resumed"] and back["epoch"] == client.epoch
            again.end = end
            await again.at()
            await again.sound()
        async with served.connect() as socket:  # one that was loaded again knows nothing
            fresh = Client(socket)
            back = await fresh.hello()
            assert not back["resumed"] and back["epoch"] > client.epoch
            assert 0 < back["position"] <= again.end
            fresh.end = back["position"]
            await fresh.at()
            await fresh.sound()

    asyncio.run(served.run(test))


def test_fifty_connects_and_drops_leave_nothing(served: Served) -> None:
    async def test(served: Served) -> None:
        served.session.start()
        for i in range(50):
            socket = await served.connect()
            client = Client(socket)
            await client.hello()
            await client.at()
            if i % 2:
                await client.next()
            if i % 5 == 0:
                socket._response.connection.transport.abort()  # the network is gone
            else:
                await socket.close()
        while served.session.outlets.all:
            await asyncio.sleep(0.01)
        async with served.greeted() as (socket, client):
            await client.at()
            await client.sound()

    asyncio.run(served.run(test))
    gc.collect()
    assert len([o for o in gc.get_objects() if type(o) is connection.Connection]) <= 1


def test_an_error_of_the_session_reaches_the_page(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.greeted() as (socket, client):
            served.session.fail(OSError(13, "Permission denied", "models/secret"))
            failed = await client.until(lambda m: m["type"] == "failed")
            assert "secret" not in failed["error"] and "PermissionError" in failed["error"]

    asyncio.run(served.run(test))


def test_a_page_learns_that_there_is_no_sound_and_play_tries_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> NoReturn:
        raise ValueError("it broke")

    async def test(served: Served) -> None:
        async with served.greeted() as (socket, client):
            await socket.send_json({"type": "start"})
            await client.sound()
            with monkeypatch.context() as patch:
                patch.setattr(Windows, "sound", fails)
                figures = await client.until(lambda m: m["type"] == "figures" and m["error"])
                assert figures["state"] == "paused"
            await socket.send_json({"type": "start"})
            await client.until(lambda m: m["type"] == "figures" and m["state"] == "playing" and m["error"] is None)
            await client.sound()

    asyncio.run(served.run(test))
