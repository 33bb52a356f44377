"""What belongs to a model is played with it: its conditions, its guidance; and what a prompt may say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from ostinato.cli import main
from ostinato.cli.validate import running_order, validate
from ostinato.cli.workflow import parse
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.spec import CORE, ModelId
from ostinato.engine_runtime.stream.request import Part, Request
from ostinato.engine_runtime.takes.render import render
from ostinato.nodes import EncodePrompt, Guide, StreamDenoise
from ostinato.nodes.shared import host
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.live_graph import _checked
from ostinato.nodes.shared.run import run_node

from ...examples import example
from ...helpers import Asked

ASKED = {"tags": "piano", "lyrics": "", "seconds": 0.4, "bpm": 0, "key": "any", "time_signature": "any",
         "language": "en", "task": "text2music", "repaint_start": 0.0, "repaint_end": 0.0}  # fmt: skip
PLAYED = {"count": 1, "depth": 1, "steps": 1, "shift": 3.0, "denoise": 1.0, "seed": 0, "seed_step": 1, "solver": "ode"}


def encode(model, **more):
    return run_node(EncodePrompt, {"model": model, **ASKED, **more}, {})[0]


@pytest.fixture
def texts():
    shown = []
    with host.use(host.Host(text=lambda text, node: shown.append((node, text)))):
        yield shown


def denoise(engine, condition, **more):
    given = {"engine": engine, "condition": condition, **PLAYED, **more}
    return run_node(StreamDenoise, given, {io.Hidden.unique_id: "9"})


def test_a_condition_of_another_model_is_refused(turbo, base):
    """Both are as wide and as long: nothing else tells them apart."""
    engine, other = eager_engine(turbo), encode(base)
    own = encode(turbo)
    with pytest.raises(InputError, match=f"made by the model {base.name}; the engine plays {turbo.name}"):
        denoise(engine, other)
    with pytest.raises(InputError, match="made by the model"):
        render("two", engine, [Request((Part(own), Part(other)))])
    denoise(engine, own)


def test_what_cannot_be_compared_plays(turbo):
    """A take's conditions name no model; the same weights may be loaded here and by ComfyUI."""
    engine, own = eager_engine(turbo), encode(turbo)
    for model in (None, ModelId(f"{CORE}1", "ComfyUI's MODEL"), replace_name(own.model)):
        render("one", engine, [Request(replace(own, model=model))])


def replace_name(model: ModelId) -> ModelId:
    return ModelId(model.identity, "the same by another name")


def test_a_base_model_without_guidance_is_told(base, turbo, texts, caplog):
    engine, condition = eager_engine(base), encode(base)
    denoise(engine, condition)
    assert [node for node, _ in texts] == ["9"] and "without guidance" in texts[0][1]
    assert "connect Guidance" in texts[0][1] and texts[0][1] in caplog.text
    guide = run_node(
        Guide, {"scale": 3.0, "start": 0.0, "end": 1.0, "momentum": 0.0, "eta": 0.0, "norm_limit": 2.5}, {}
    )
    denoise(engine, condition, guidance=guide[0])
    denoise(eager_engine(turbo), encode(turbo))
    assert len(texts) == 1


def test_the_trouble_goes_when_the_node_runs_again(texts):
    host.show_trouble("odd", "4")
    host.clear_trouble("5")
    host.clear_trouble("4")
    host.clear_trouble("4")
    assert texts == [("4", "odd"), ("4", "")]


@pytest.mark.parametrize("key", ["A minor", "H dorian", ""])
def test_a_chooser_takes_what_a_workflow_holds(key):
    """Workflows saved before there were choosers hold any text, and nothing for what is left open."""
    types, text = main.all_types(), example("text_to_music").read_text("utf-8")
    graph = parse(json.loads(text), types)
    number = next(id for id, node in graph.nodes.items() if node.class_type == "OstinatoEncodePrompt")
    graph.nodes[number].inputs["key"] = key
    validate(graph, types, running_order(graph, types))
    assert graph.to_api()[number]["inputs"]["key"] == key
    spec = next(spec for spec in EncodePrompt.GET_SCHEMA().inputs if spec.id == "key")
    assert _checked("key", spec, key) == key and spec.get_io_type() == "COMBO,STRING"


def test_any_leaves_it_open(turbo):
    model = replace(turbo, pipe=Asked(turbo.pipe))
    for open_, named in (("any", "C major"), ("", "H dorian")):
        encode(model, key=open_)
        encode(model, key=named)
    assert [one["keyscale"] for one in model.pipe.asked] == [None, "C major", None, "H dorian"]


def test_codes_reach_the_condition(turbo):
    planned = encode(turbo, codes="<|audio_code_3|><|audio_code_1|>")
    assert not torch.equal(planned.context, encode(turbo).context)
