"""What Refit LoRA gives out and when it writes adapters again."""

from __future__ import annotations

import os

import pytest
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.trt import bake, loader
from ostinato.nodes.lora import Lora
from ostinato.nodes.refit_lora import RefitLora
from ostinato.nodes.shared import folders

from .engine_nodes import Cache, FakeRefit, fingerprint, is_open, run

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def baking(turbo, player, files, monkeypatch):
    """A cached Refit LoRA, its adapters a and b, and what was written into each executor."""
    written = []

    class Writes(FakeRefit):
        def apply(self, mix, prove):
            written.append((self.engine.executor, [(a.digest, s) for a, s in mix]))
            super().apply(mix, prove)

    monkeypatch.setattr(bake, "Refit", Writes)
    monkeypatch.setattr(bake, "_check", lambda *_: None)
    player.make("b", refittable=True)
    mixes = [run(Lora, adapter=f"mine/{name}.safetensors", strength=1.0)[0] for name in "ab"]
    return (Cache(RefitLora, engine="b", model=turbo), *mixes, written)


def test_adapters_in_turn_are_what_is_given_out(baking):
    play, a, b, written = baking

    def given(mix):
        made = play(linked=("adapters", "model"), adapters=mix)
        return made[0].identity, made[1]

    first, second = given(a), given(b)
    assert first != second == given(b)
    assert given(a) == first == given(a) and given(b) == second
    assert len(written) == 4, "what is in the weights is not written again"


def test_adapters_come_back_with_their_engine(baking):
    play, a, _, written = baking
    engine = play(linked=("adapters",), adapters=a)[0]
    loader.put_away(engine)
    engine.ready()
    engine.ready()
    (before, mix), (after, again) = written
    assert mix == again and after is engine.executor is not before and is_open(engine)


def test_a_file_that_was_overwritten_is_heard(files, turbo):
    play = Cache(Lora, adapter="mine/a.safetensors", strength=1.0)
    play(), play()
    assert play.runs == 1
    os.utime(files / "a.safetensors", ns=(1, 1))
    play()
    assert play.runs == 2 and fingerprint(Lora, strength=1.0) == ""


def test_in_comfyui_an_adapter_is_one_of_its_folder(files, in_comfyui):
    in_comfyui({"loras": [files.parent]})
    assert folders.adapter_path("mine/a.safetensors") == files / "a.safetensors"
    for name in (str(files / "a.safetensors"), "../loras/mine/a.safetensors", "mine", ""):
        with pytest.raises(InputError, match="is not there"):
            folders.adapter_path(name)
    in_comfyui(None)
    with pytest.raises(InputError, match="is not there"):
        folders.adapter_path(str(files))
