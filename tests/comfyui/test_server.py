"""The pack in a real ComfyUI: it loads, says what it is, plays its examples, fails in words and can be cancelled."""

import importlib
import json
import math
import re
import shutil
from enum import Enum

import numpy as np
import pytest
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.tools.help.pages import CORE

from ..browser.object_info import node_info
from .client import PromptError

# What /object_info calls an option, and the headless schema's name for it.
OPTIONS = {
    **{name: name for name in ("default", "min", "max", "step", "round", "options", "multiline", "placeholder")},
    **{name: name for name in ("tooltip", "display_name", "advanced", "control_after_generate", "socketless")},
    **{"display": "display_mode", "forceInput": "force_input", "dynamicPrompts": "dynamic_prompts"},
    **{"label_on": "label_on", "label_off": "label_off"},
}


@pytest.fixture
def headless(comfy, places) -> dict[str, object]:
    """The pack's schemas as they are without ComfyUI, by node id, with the server's folders."""
    places(comfyui=comfy.server.base, data=comfy.server.base / "data")
    pack = importlib.import_module("ostinato.nodes")
    if not importlib.import_module("ostinato.nodes.shared.comfy").HEADLESS:
        pytest.skip("comfy_api can be imported here, so there is no headless schema to compare: use another Python")
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in pack.NODES)}


def plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value


def test_pack_loads(comfy, object_info):
    log = comfy.log()
    failed = [line for line in log.splitlines() if "IMPORT FAILED" in line or "comfy_entrypoint" in line]
    # ComfyUI hides the traceback of an entry point; importing ostinato.nodes with its Python shows it.
    assert not failed, "\n".join(failed)
    assert "Traceback" not in log.split("To see the GUI")[0], log
    assert any(name.startswith("Ostinato") for name in object_info)


def test_core_audio_nodes_are_there(object_info):
    assert {"LoadAudio", "SaveAudio", "PreviewAudio"} <= set(object_info)


def test_every_node_explains_itself(ours):
    silent = [name for name, info in ours.items() if not (info["description"] or "").strip()]
    for name, info in ours.items():
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        silent += [f"{name}.{key}" for key, spec in inputs.items() if not (spec[1].get("tooltip") or "").strip()]
        silent += [f"{name}: output {i}" for i, text in enumerate(info["output_tooltips"]) if not text]
    assert not silent


def test_every_node_has_our_prefix(ours):
    assert all(name.startswith("Ostinato") for name in ours)


def test_headless_has_the_same_nodes(headless, ours):
    assert set(headless) == set(ours)


def test_headless_inputs_equal_the_real_ones(headless, ours):
    for name, schema in headless.items():
        for group in ("required", "optional"):
            specs = [spec for spec in schema.inputs if bool(spec.optional) == (group == "optional")]
            real = ours[name]["input"].get(group, {})
            assert [spec.id for spec in specs] == list(real), f"{name}, {group}"
            for spec in specs:
                kind, options = real[spec.id]
                widget = getattr(spec, "input_override", None) or spec  # of a socket that takes several types
                values = {key: plain(getattr(widget, attribute, None)) for key, attribute in OPTIONS.items()}
                mine = {key: value for key, value in values.items() if value is not None}
                theirs = {key: value for key, value in options.items() if key in OPTIONS}
                assert (spec.get_io_type(), mine) == (kind, theirs), f"{name}.{spec.id}"


def test_headless_outputs_equal_the_real_ones(headless, ours):
    for name, schema in headless.items():
        real = ours[name]
        mine = [(o.get_io_type(), o.display_name or o.get_io_type(), o.tooltip) for o in schema.outputs]
        assert mine == list(zip(real["output"], real["output_name"], real["output_tooltips"], strict=True)), name


def test_headless_flags_equal_the_real_ones(headless, ours):
    flags = {"display_name": "display_name", "category": "category", "description": "description"}
    flags |= {"is_output_node": "output_node", "is_experimental": "experimental", "is_deprecated": "deprecated"}
    for name, schema in headless.items():
        assert {k: getattr(schema, k) for k in flags} == {k: ours[name][v] for k, v in flags.items()}, name


def test_the_browser_tests_host_says_the_same(headless, ours):
    """Its `/object_info` is made of the headless schemas."""
    for name, schema in headless.items():
        mine = json.loads(json.dumps(node_info(schema, ours[name]["python_module"])))
        assert mine == ours[name], name


def test_the_extension_is_served_and_imported_once(comfy):
    listed = [path for path in comfy.client.get("/extensions") if "/ostinato/" in path]
    assert listed == ["/extensions/ostinato/ostinato.js"]
    assert comfy.client.request(listed[0]) == (comfy.pack / "web" / "ostinato.js").read_bytes()


def test_templates_list_the_examples(comfy):
    names = {path.stem for path in (comfy.pack / "example_workflows").glob("*.json")} - {"index"}
    assert len(names) >= 3
    assert names <= set(comfy.client.get("/api/workflow_templates")["ostinato"])
    for name in names:
        assert comfy.client.get(f"/api/workflow_templates/ostinato/{name}.json")["nodes"]


def test_translations_name_nodes_that_exist(comfy, ours):
    translated = comfy.client.get("/i18n")
    assert "zh" in translated
    for language, texts in translated.items():
        named = {name for name in texts.get("nodeDefs", {}) if name.startswith("Ostinato")}
        assert named == set(ours), language


def test_help_pages_are_served_where_the_frontend_looks(comfy, ours):
    for name, info in ours.items():
        folder = info["python_module"].split(".")[1]
        for file in ("en.md", "zh.md", "picture.svg"):
            served = comfy.client.request(f"/extensions/{folder}/docs/{name}/{file}")
            assert served == (comfy.pack / "web" / "docs" / name / file).read_bytes()


def test_comfyuis_own_nodes_in_help_pages_have_those_names_and_types(object_info):
    named = {info["display_name"]: info for info in object_info.values()} | object_info
    for name, (taken, given) in CORE.items():
        inputs = {**named[name]["input"].get("required", {}), **named[name]["input"].get("optional", {})}
        types = {spec[0] for spec in inputs.values() if isinstance(spec[0], str)}
        assert set(taken) <= types and set(given) <= set(named[name]["output"]), name


def assert_sounds(comfy, result):
    files = result.files("audio")
    assert files
    for item in files:
        audio, rate = comfy.client.audio(item)
        assert rate == 48000 and audio.shape[1] == 2, item
        assert np.isfinite(audio).all() and np.abs(audio).max() > 1e-4, item


def reseed(graph, seed):
    for node in graph.values():
        for name in ("seed", "noise_seed"):
            if isinstance(node["inputs"].get(name), int):
                node["inputs"][name] = seed
    return graph


def test_example_plays(comfy, example):
    assert_sounds(comfy, comfy.client.run(example, seconds=300))


def test_same_sound_after_free(comfy, streaming):
    graph, _ = streaming
    first = comfy.client.run(reseed(graph, 5))
    comfy.client.free()
    for _ in range(5):  # ComfyUI frees when its worker comes round again: a prompt that is there by then goes first
        second = comfy.client.run(graph)
        pairs = list(zip(first.files("audio"), second.files("audio"), strict=True))
        if all(a["filename"] != b["filename"] for a, b in pairs):
            break
    assert pairs and all(a["filename"] != b["filename"] for a, b in pairs), "the second run came from the cache"
    for a, b in pairs:
        np.testing.assert_array_equal(comfy.client.audio(a)[0], comfy.client.audio(b)[0])


def running_at(prompt_id, node_id, value=1):
    """Accepts the event that says this node of this prompt is running and has come as far as `value`."""

    def accept(data):
        node = data["nodes"].get(node_id, {})
        return data["prompt_id"] == prompt_id and node.get("state") == "running" and node["value"] >= value

    return accept


def test_progress_is_shown(comfy, streaming):
    pytest.importorskip("websocket", reason="progress needs websocket-client: pip install websocket-client")
    graph, node_id = streaming
    # Messages are spaced in time; at its usual length the tiny model would be done before the second.
    graph[node_id]["inputs"]["steps"] = 200
    with comfy.client.events() as events:
        prompt_id = comfy.client.submit(reseed(graph, 11))
        comfy.client.wait(prompt_id)
        events.wait_for("execution_success", lambda data: data["prompt_id"] == prompt_id)
        states = [e["nodes"][node_id] for e in events.of("progress_state") if node_id in e["nodes"]]
    # The executor's own 0 of 1 before the node's first word, and its last message, are not the node's.
    running = [(s["value"], s["max"]) for s in states if s["state"] == "running" and s["value"] > 0]
    assert len(running) >= 2
    assert len({total for _, total in running}) == 1
    assert [value for value, _ in running] == sorted(value for value, _ in running)
    assert states[-1]["state"] == "finished" and states[-1]["value"] == states[-1]["max"] == running[-1][1]


def lengthen(graph, node_id, object_info):
    """Turns a stream into one that certainly is not over when Cancel comes."""
    limit = object_info["OstinatoStreamDenoise"]["input"]["required"]["count"][1]["max"]
    graph[node_id]["inputs"]["count"] = min(limit, 1000)
    return graph


def test_cancel_leaves_the_next_prompt_working(comfy, streaming, object_info):
    pytest.importorskip("websocket", reason="the right moment needs websocket-client: pip install websocket-client")
    graph, node_id = streaming
    usual = graph[node_id]["inputs"]["count"]
    for seed in (21, 22):
        with comfy.client.events() as events:
            prompt_id = comfy.client.submit(reseed(lengthen(graph, node_id, object_info), seed))
            events.wait_for("progress_state", running_at(prompt_id, node_id, 3))
            comfy.client.interrupt(prompt_id)
            with pytest.raises(PromptError) as stopped:
                comfy.client.wait(prompt_id, seconds=30)
        assert (stopped.value.kind, stopped.value.node_id) == ("interrupted", node_id)
    graph[node_id]["inputs"]["count"] = usual
    assert_sounds(comfy, comfy.client.run(graph))


def test_values_outside_the_limits_are_refused(comfy, streaming, ours):
    graph, _ = streaming
    tried = 0
    for node_id, node in graph.items():
        for name, (_, options) in inputs_of(ours, node["class_type"]).items():
            usual = node["inputs"].get(name)
            if isinstance(usual, list):
                continue
            for limit, step in (("min", -1), ("max", 1)):
                if limit in options:
                    node["inputs"][name] = options[limit] + step
                    with pytest.raises(PromptError) as refused:
                        comfy.client.submit(graph)
                    assert (refused.value.kind, refused.value.node_id) == ("validation", node_id)
                    assert name in refused.value.message
                    tried += 1
            restore(node, name, usual)
    assert tried >= 4


def test_nan_is_refused_in_words(comfy, example, ours, errors_expected):
    """ComfyUI's own check lets NaN pass, for it is neither below the minimum nor above the maximum."""
    for node in example.values():
        for name, (kind, _) in inputs_of(ours, node["class_type"]).items():
            usual = node["inputs"].get(name)
            if kind != "FLOAT" or isinstance(usual, list):
                continue
            node["inputs"][name] = math.nan
            with pytest.raises(PromptError) as refused:
                comfy.client.run(example)
            message = refused.value.message
            # Our sentence: what was given; what is allowed; what to do.
            in_words = re.search(r"\bnan\b", message.lower()) and message.count(";") >= 2
            assert in_words, f"{node['class_type']}.{name}: {message}"
            restore(node, name, usual)


def test_a_model_comes_from_the_servers_folders(comfy, streaming, errors_expected):
    """An upload is in none of them, and what is told of it is what is told of nothing."""
    graph, _ = streaming
    model = next(node["inputs"] for node in graph.values() if node["class_type"] == "OstinatoLoadModel")
    place, told = comfy.input_dir / "uploaded", []
    shutil.copytree(preset_folder("random"), place)
    for name in (str(place), str(place.with_name("nothing"))):
        model["model"] = name
        with pytest.raises(PromptError) as refused:
            comfy.client.run(graph)
        told.append(refused.value.message.replace(name, ""))
    assert told[0] == told[1] and "OSTINATO_MODELS" in told[0]
    link = comfy.server.base / "models" / "diffusers" / "linked"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(place)  # whoever has the server's disk decides
    model["model"] = "linked"
    assert_sounds(comfy, comfy.client.run(graph))


def test_an_error_is_shown_whole(comfy, streaming, errors_expected):
    """Its class has no module path, the sentence is all there, and stands under the node until the node has run."""
    graph, _ = streaming
    name, model = next((k, n["inputs"]) for k, n in graph.items() if n["class_type"] == "OstinatoLoadModel")
    usual, model["model"] = model["model"], "not there"
    with comfy.client.events() as events:
        with pytest.raises(PromptError) as refused:
            comfy.client.run(graph)
        model["model"] = usual
        comfy.client.run(graph)
        said = [event["data"] for event in events.seen if event["type"] == "ostinato.text"]
    details, sentence = refused.value.details, refused.value.message
    assert details["exception_type"] == "Ostinato" and details["node_id"] == name
    assert sentence.startswith("no model 'not there' was found; ") and sentence.endswith("where ComfyUI is started.")
    assert [text["text"] for text in said if text["node"] == name] == [sentence, ""]


def inputs_of(ours, class_type):
    groups = ours.get(class_type, {}).get("input", {})
    return {**groups.get("required", {}), **groups.get("optional", {})}


def restore(node, name, usual):
    if usual is None:
        node["inputs"].pop(name, None)
    else:
        node["inputs"][name] = usual


def test_plays_after_all_those_errors(comfy, streaming):
    graph, _ = streaming
    assert_sounds(comfy, comfy.client.run(reseed(graph, 31)))
