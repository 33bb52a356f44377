"""Out of memory anywhere is one typed error, and the runtime plays on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode, decode_clips
from ostinato.engine_runtime.audio.encode import encode_audio, encode_timbre
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.device.memory import guarded
from ostinato.engine_runtime.engines.contract import Rows
from ostinato.engine_runtime.errors import MemoryShortage
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.stream.tick import Tick
from ostinato.engine_runtime.takes.render import render, take_batch

from ...helpers import play
from ..refusal import check_sentence, refused


def no_room(*args, **kwargs) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_what_a_shortage_caused_is_a_shortage() -> None:
    """As where the driver's bindings or safetensors wrap what CUDA said."""
    with pytest.raises(MemoryShortage, match="a tick"), guarded("a tick", "less", "close something"):
        try:
            no_room()
        except torch.OutOfMemoryError as error:
            raise ValueError("could not be made") from error
    with pytest.raises(ValueError), guarded("a tick", "less", "close something"):
        raise ValueError("could not be made") from KeyError("x")


class Short:
    """An engine whose memory runs out at one call."""

    def __init__(self, engine, at: int) -> None:
        self.engine, self.left = engine, at
        sizes = ("spec", "limits", "width", "dtype", "device", "identity", "name", "model")
        for name in (*sizes, "rows", "ready", "rest", "capturable"):
            setattr(self, name, getattr(engine, name))

    def __call__(self, rows: Rows) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            no_room()
        return self.engine(rows)


@pytest.fixture
def kit(base, conditions) -> SimpleNamespace:
    (good,) = conditions(base, 10, 1)
    engine = eager_engine(base, 4)
    asked = take_batch(good, Sampling(steps=3), 4, 1, Guidance(scale=3.0))
    return SimpleNamespace(model=base, engine=engine, good=good, asked=asked, plain=[Request(good, Sampling(steps=2))])


@pytest.mark.parametrize("at", [1, 2, 3, 6])
def test_in_the_engine(kit, at: int) -> None:
    """With depth 3 and 4 rows every guided tick makes two calls, so the shortage also falls between its halves."""
    short = Short(kit.engine, at)
    with refused(kit.engine, kit.good, MemoryShortage, "depth 3"):
        render("short", short, kit.asked, depth=3)
    expected = render("short", kit.engine, kit.asked, depth=3)[0]
    assert all(torch.equal(a, b) for a, b in zip(render("short", short, kit.asked, 3)[0], expected, strict=True))


def test_in_the_engine_of_an_open_session(kit) -> None:
    with runtime().playing("open", Short(kit.engine, 2), StreamConfig(depth=2, spread=False)) as session:
        for one in kit.asked[:3]:
            session.submit(one)
        session.step()
        with pytest.raises(MemoryShortage) as caught:
            session.step()
        check_sentence(caught.value)
        assert session.stats().dropped == 2  # what was in flight; the third still waits
        assert {id(f.request) for f in session.play(kit.plain)} == {id(kit.asked[2]), id(kit.plain[0])}


def test_while_a_ring_is_built(kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime().playing("built", kit.engine, StreamConfig(depth=2)) as session:
        list(session.play(kit.plain))
        with monkeypatch.context() as patch, pytest.raises(MemoryShortage) as caught:
            patch.setattr(kit.engine, "rows", no_room)
            list(session.play(kit.asked[:1]))  # needs guided rows, so another ring
        check_sentence(caught.value)
        assert session.stats().dropped == 1 and session.idle
        again = [f.take() for f in session.play(kit.asked[1:2])]
    torch.testing.assert_close(again[0], play(kit.engine, kit.asked[1:2], depth=1)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", ["write", "read", "run"])
def test_anywhere_in_a_tick(kit, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime().playing("tick", kit.engine, StreamConfig(depth=2, spread=False)) as session:
        with monkeypatch.context() as patch, pytest.raises(MemoryShortage) as caught:
            patch.setattr(Tick, where, no_room)
            list(session.play(take_batch(kit.good, Sampling(steps=2), 2, 1)))
        check_sentence(caught.value)
        for _ in range(3):  # what is still queued may play or be dropped, but ends
            session.step()
        assert session.idle
        assert session.stats().finished + session.stats().dropped == 2
        latent = next(session.play(kit.plain)).take()
    torch.testing.assert_close(latent, play(kit.engine, kit.plain, depth=1)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [0, 3])
def test_in_decode(kit, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, z = kit.model.pipe.vae, torch.zeros(1, 8, 64)
    before = decode(vae, z, window)
    with refused(kit.engine, kit.good, MemoryShortage, "8 frames"), monkeypatch.context() as patch:
        patch.setattr(vae.decoder, "forward", no_room)
        decode_clips(vae, list(z), window)
    assert torch.equal(decode(vae, z, window), before)


def test_in_loading(kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(kit.engine, kit.good, MemoryShortage, "random"), monkeypatch.context() as patch:
        patch.setattr("ostinato.engine_runtime.models.folder.fill", no_room)
        load("random", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("encode", ["prompt", "audio", "timbre"])
def test_in_encoding(kit, encode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = kit.model.pipe
    part = {"prompt": pipe.condition_encoder, "audio": pipe.vae.encoder, "timbre": pipe.vae.encoder}[encode]
    word = "prompt" if encode == "prompt" else "audio"
    with refused(kit.engine, kit.good, MemoryShortage, word), monkeypatch.context() as patch:
        patch.setattr(part, "forward", no_room)
        if encode == "prompt":
            encode_prompt(kit.model, Prompt("piano", seconds=1))
        elif encode == "audio":
            encode_audio(kit.model, torch.ones(1, 4_000), 48_000)
        else:
            encode_timbre(kit.model, torch.ones(1, 4_000), 48_000)
