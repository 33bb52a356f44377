"""The native workflows ask of ComfyUI's own nodes only what they have."""

import json

import pytest
from ostinato.nodes.shared.folders import EXAMPLE

from ..examples import example

NATIVE = ("native_drop_in", "native_cover", "native_repaint")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def is_widget(spec) -> bool:
    return isinstance(spec[0], list) or spec[0] in WIDGETS


@pytest.mark.parametrize("name", NATIVE)
def test_no_node_is_missing(comfy, name):
    info = comfy.client.object_info()
    nodes = [n for n in json.loads(example(name).read_text("utf-8"))["nodes"] if n["type"] != "MarkdownNote"]
    assert {n["type"] for n in nodes} - info.keys() == set()
    for node in nodes:
        known = info[node["type"]]["input"]
        specs = {**known.get("required", {}), **known.get("optional", {})}
        assert {i["name"] for i in node["inputs"]} == specs.keys(), node["type"]
        extra = ("seed" in specs and is_widget(specs["seed"])) + 2 * (node["type"] == "LoadAudio")
        assert len(node["widgets_values"]) == sum(map(is_widget, specs.values())) + extra, node["type"]
        for link in (i for i in node["inputs"] if i["link"] is not None):
            wanted = specs[link["name"]][0]
            assert link["type"] == wanted or link["type"] in wanted, (node["type"], link["name"])


def test_the_clip_of_the_templates_is_in_place(comfy):
    """Before anything was uploaded: the chooser of Load Audio has it, so that templates open without a red node."""
    place = comfy.input_dir / EXAMPLE.name
    assert place.read_bytes() == EXAMPLE.read_bytes()
    assert EXAMPLE.name in str(comfy.client.object_info()["LoadAudio"]["input"]["required"]["audio"])
