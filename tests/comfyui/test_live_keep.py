"""What a Live Session keeps in a real ComfyUI comes back into its graph; what a graph lacks is listed."""

from __future__ import annotations

import soundfile

from .live import RATE, Listener, workflow
from .test_live import ended, queue  # noqa: F401 - a fixture


def test_a_capture_and_a_recording_come_back_into_the_graph(comfy, ended):  # noqa: F811
    assert queue(comfy, workflow()) == ["5"]
    with Listener(comfy.server.address, "5") as listener:
        listener.hear(1.0)
        listener.send(type="record", id=1, on=True)
        listener.send(type="set", id=2, node="4", input="velocity_scale", value=0.9, when="beat")
        queued = listener.until(lambda: listener.of("queued"))[0]
        assert (queued["node"], queued["input"]) == ("4", "velocity_scale") and queued["position"] > 0
        taken = listener.until(lambda: [m for m in listener.of("taken") if m["id"] == 2])[0]
        assert taken["error"] is None
        listener.hear(2.0)
        listener.send(type="record", id=3, on=False)
        listener.send(type="capture", id=4, seconds=1.0)
        captured = listener.until(lambda: listener.of("captured"))[0]
        ended_at = listener.until(lambda: [m for m in listener.of("recording") if m["id"] == 3])[0]
    folder = comfy.output_dir / "live"
    assert all((folder / name).is_file() for name in captured["files"])
    samples, rate = soundfile.read(folder / ended_at["file"])
    assert rate == RATE and len(samples) > RATE and abs(samples).max() > 0.01
    name = captured["files"][0].removesuffix(".flac")
    listed = comfy.client.get("/object_info/OstinatoLiveCapture")["OstinatoLiveCapture"]
    assert name in str(listed["input"]["required"]["capture"])
    graph = {
        "1": {"class_type": "OstinatoLiveCapture", "inputs": {"capture": name}},
        "2": {"class_type": "OstinatoSaveTake", "inputs": {"take": ["1", 2], "filename_prefix": "takes/again"}},
        "3": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "again"}},
        "4": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 1], "filename_prefix": "again"}},
    }
    queue(comfy, graph)
    (sound,) = comfy.output_dir.glob("again_*.flac")
    again, _ = soundfile.read(sound)
    assert len(again) == RATE and list((comfy.output_dir / "takes").glob("again_*.safetensors"))


def test_what_a_graph_lacks_is_listed(comfy):
    import json

    graph = {"7": {"class_type": "OstinatoLora", "inputs": {"adapter": "gone.safetensors", "strength": 1.0}}}
    (found,) = json.loads(comfy.client.request("/ostinato/live/missing", graph))
    assert (found["node"], found["kind"], found["name"]) == ("7", "LoRA", "gone.safetensors")
