"""The nodes of built engines in a real ComfyUI, whose Python may have neither TensorRT nor what a build needs."""

import time

import pytest
from ostinato.engine_runtime.trt.files.spec import DEFAULT_PROFILE, make_spec
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.nodes.shared.host import TEXT_EVENT

from ..engine_files import made_up, put
from .client import PromptError

BUILD = {"action": "build", "what": "decoder", "flavor": "rtx", "precision": "auto", "lora": False, "name": "live"}
BUILD |= {"refittable": False, "wait": False, **DEFAULT_PROFILE}
PROFILE = {"depth": 1, "seconds": 1.0, "steps": 2, "guidance": "off", "tokens": 4, "ticks": 1}


def node(name, /, **inputs):
    return {"class_type": f"Ostinato{name}", "inputs": inputs}


def playing(maker, /, **inputs):
    """A short stream on an engine of the tiny model; the engine's node is shown by a node of its own."""
    prompt = {"tags": "piano", "lyrics": "", "seconds": 1.0, "bpm": 0, "key": "", "time_signature": ""}
    prompt |= {"language": "en", "task": "text2music", "repaint_start": 0.0, "repaint_end": 0.0}
    stream = {"count": 1, "depth": 1, "steps": 2, "shift": 3.0, "denoise": 1.0, "seed": 1, "seed_step": 1}
    return {
        "model": node("LoadModel", model="random", precision="auto", device="cpu", download=False),
        "prompt": node("EncodePrompt", model=["model", 0], **prompt),
        "engine": node(maker, model=["model", 0], **inputs),
        "stream": node("StreamDenoise", engine=["engine", 0], condition=["prompt", 0], **stream),
        "stats": node("StreamStats", stats=["stream", 1]),
        "info": {"class_type": "PreviewAny", "inputs": {"source": ["engine", 1]}},
    }


def play(comfy, graph):
    """What the engine's node said, after the stream on it has finished."""
    outputs = comfy.client.run(graph).outputs
    assert "1 latents finished" in outputs.get("stats", {}).get("text", ["1 latents finished"])[0]
    return outputs["info"]["text"][0]


@pytest.fixture
def builds(comfy):
    """`builds(action, text)`: a node that tells the pretended building process."""

    def told(action, text=""):
        return {"class_type": "BorderBuilds", "inputs": {"action": action, "text": text}}

    comfy.client.run({"builds": told("pretend")})
    yield told
    comfy.client.run({"builds": told("restore")})


def test_the_music_plays_while_the_engine_is_built(comfy, builds):
    pytest.importorskip("websocket", reason="texts need websocket-client: pip install websocket-client")
    graph, data = playing("BuildEngine", **BUILD), comfy.server.base / "data"
    spec = make_spec("rtx", "decoder", {"model": "random"}, {}, "live")
    with comfy.client.events() as events:
        started = time.monotonic()
        said = play(comfy, graph)
        assert said.startswith("live: exporting, 25 %\n\nplaying on eager") and time.monotonic() - started < 60
        events.wait_for(TEXT_EVENT, lambda data: data["node"] == "engine" and data["text"] == said)
        again = comfy.client.run(graph | {"told": builds("report", "building live")})
        events.wait_for(TEXT_EVENT, lambda data: data == {"node": "engine", "text": "live: building live, 25 %"})
        assert ran(events, again.prompt_id) == {"told"}, "there is nothing new to play on"
        comfy.client.run(
            {"told": builds("report", "elsewhere"), "engine": {"class_type": "PreviewAny", "inputs": {"source": 1}}}
        )
        play(comfy, graph)
        assert {"node": "engine", "text": "live: elsewhere, 25 %"} not in events.of(TEXT_EVENT), "another graph's node"
        built = put(data / "engines", *made_up("live", 1, spec=spec), Trust(data))
        finish = comfy.client.run(graph | {"told": builds("finish", "built")})
        events.wait_for(TEXT_EVENT, lambda data: "live is built; run the graph again" in data["text"])
        after = comfy.client.run(graph)
        # the file is there before the build is said to be done, so either prompt may be the one that takes it
        assert {"engine", "stream"} <= ran(events, finish.prompt_id) | ran(events, after.prompt_id)
        again = comfy.client.run(graph)
        assert not {"engine", "stream"} & ran(events, again.prompt_id), "it is the same engine"
        for path in (built, built.with_name("live.plan.json")):
            path.unlink()
        gone = comfy.client.run(graph)
    assert "exporting" not in after.outputs["info"]["text"][0], "the engine is there, though nothing here plays it"
    assert gone.outputs["info"]["text"][0].startswith("live: exporting"), "it is built again"


def ran(events, prompt_id):
    """The nodes of a prompt that were run, not taken from the cache."""
    events.wait_for("execution_success", lambda data: data["prompt_id"] == prompt_id)
    return {e["node"] for e in events.of("executing") if e.get("prompt_id") == prompt_id and e["node"]}


def test_a_build_is_cancelled(comfy, builds):
    assert "exporting" in play(comfy, playing("BuildEngine", **BUILD | {"name": "stopped"}))
    assert "the build of stopped was cancelled" in play(
        comfy, playing("BuildEngine", **BUILD | {"name": "stopped", "action": "cancel"})
    )


def test_what_a_build_lacks_is_said_and_the_music_plays(comfy):
    """Where ComfyUI's Python has all that a build needs, one starts, and is cancelled."""
    said = play(comfy, playing("BuildEngine", **BUILD | {"name": "real"}))
    play(comfy, playing("BuildEngine", **BUILD | {"name": "real", "action": "cancel"}))
    assert "playing on eager" in said
    assert ("not installed" in said and "-m pip install polygraphy onnx" in said) or "starting" in said


def test_load_engine_says_what_is_there(comfy):
    folder = comfy.server.base / "data" / "engines"
    plan = put(folder, *made_up("foreign"))
    try:
        widget = comfy.client.object_info()["OstinatoLoadEngine"]["input"]["required"]["engine"][1]
        assert widget["options"] == ["foreign"]
        assert "\nforeign: unusable: the engine foreign was not built by this installation" in widget["tooltip"]
        graph = playing("LoadEngine", engine="foreign", otherwise="play on the torch engine")
        assert "\n- foreign: unusable: the engine foreign was not built by this installation" in play(comfy, graph)
        graph["engine"]["inputs"]["engine"] = "gone"
        assert "there is no engine 'gone'" in play(comfy, graph)
    finally:
        for path in (plan, plan.with_name(f"{plan.name}.json")):
            path.unlink()


def test_load_engine_stops_where_it_shall(comfy, errors_expected):
    with pytest.raises(PromptError, match="there is no engine 'gone'; it was looked for in .*ostinato_engines"):
        play(comfy, playing("LoadEngine", engine="gone", otherwise="stop"))


def test_a_layer_profile_is_shown(comfy):
    graph = playing("Engine", kind="eager", max_rows=4)
    graph["profile"] = node("LayerProfile", engine=["engine", 0], **PROFILE)
    outputs = comfy.client.run(graph).outputs["profile"]
    assert "ms per tick" in outputs["text"][0] and len(outputs["images"]) == 1


def test_an_adapter_that_is_not_there_is_named(comfy, models):
    options = comfy.client.object_info()["OstinatoLora"]["input"]["required"]["adapter"][1]["options"]
    assert models[1] in options
    graph = playing("Engine", kind="eager", max_rows=4)
    graph["stream"]["inputs"]["adapters"] = ["lora", 0]
    for name in ("gone.safetensors", __file__, f"../{models[1]}"):  # a path of the server is none of its adapters
        graph["lora"] = node("Lora", adapter=name, strength=1.0)
        with pytest.raises(PromptError, match="the adapter '.*' is not there") as refused:
            comfy.client.run(graph)
        assert (refused.value.kind, refused.value.node_id) == ("validation", "lora")
