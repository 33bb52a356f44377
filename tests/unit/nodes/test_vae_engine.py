"""The node that loads a TensorRT engine of the VAE: what decodes, a clip and live, and what it says where it cannot."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.errors import EngineFileError
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.trt import loader
from ostinato.engine_runtime.trt.play.vae import TrtVae
from ostinato.nodes.load_engine import LoadEngine
from ostinato.nodes.load_vae_engine import STOP, TORCH, LoadVaeEngine
from ostinato.nodes.shared import folders
from ostinato.nodes.shared.live_score import Scorer
from ostinato.nodes.stream_decode import StreamDecode

from ...ear import Ear
from ...helpers import StandIn, drawn, made_up
from .engine_nodes import fingerprint, run

pytestmark = pytest.mark.usefixtures("folder")
FRAMES = 50


@pytest.fixture
def runs(monkeypatch):
    """The frames of what engines decoded."""
    seen, real = [], TrtVae.__call__
    monkeypatch.setattr(TrtVae, "__call__", lambda vae, signal: seen.append(signal.shape[2]) or real(vae, signal))
    return seen


def latents():
    return {"samples": drawn(3, FRAMES, 64).T[None], "type": "audio"}


def test_nodes_of_one_id_and_two_kinds_keep_their_engines(turbo, player):
    """Ids repeat between workflows."""
    player.make("one"), player.make_vae("voice")
    for _ in range(2):
        run(LoadEngine, engine="one", otherwise="stop", model=turbo)
        run(LoadVaeEngine, model=turbo, engine="voice", otherwise="stop")
        assert len(player.library.open_engines) == 2


def test_a_clip_is_decoded_on_the_engine(turbo, player, shown, runs):
    player.make_vae("voice")
    vae, info = run(LoadVaeEngine, model=turbo, engine="voice", otherwise=TORCH)
    assert "TensorRT" in info and shown[-1] == ("7", info) and player.checks == ["voice"]
    (own,), (engine,) = (run(StreamDecode, model=turbo, latents=latents(), window=0.0, vae=v) for v in (None, vae))
    torch.testing.assert_close(engine["waveform"], own["waveform"], atol=1e-5, rtol=1e-5)
    assert runs == [FRAMES]


def test_a_live_session_sounds_through_it(turbo, player, runs):
    player.make_vae("voice")
    vae, _ = run(LoadVaeEngine, model=turbo, engine="voice", otherwise=TORCH)
    given = {"engine": StandIn(), "condition": made_up(0, FRAMES, guided=False), "vae": vae, "steps": 4, "depth": 1}
    session = LiveSession("test vae", Scorer().score(given, turbo, "loop", 0.0))
    try:
        ear = Ear(session)
        session.start()
        ear.until(ear.played(1.0))
        count = len(runs)
        assert count and not ear.errors
        assert loader.put_away(vae) and vae.executor.engine is None  # as a memory manager does; it comes back
        ear.until(lambda: len(runs) > count + 3)
        assert vae.executor.engine is not None and not ear.errors
    finally:
        session.close()


def test_the_model_decodes_where_there_is_none(turbo, player):
    vae, info = run(LoadVaeEngine, model=turbo, engine="gone", otherwise=TORCH)
    assert vae is None and "there is no engine 'gone'" in info and info.endswith("the model's VAE decodes")
    with pytest.raises(EngineFileError, match="gone"):
        run(LoadVaeEngine, model=turbo, engine="gone", otherwise=STOP)


@pytest.mark.parametrize("node", [LoadEngine, LoadVaeEngine])
def test_an_engine_of_another_part_is_refused(turbo, player, node):
    player.make("decoder"), player.make_vae("encoder", "vae_encoder"), player.make_vae("voice")
    for name in ("encoder", "voice" if node is LoadEngine else "decoder"):
        with pytest.raises(EngineFileError, match="decoder"):
            run(node, model=turbo, engine=name, otherwise=STOP)
    assert not player.library.open_engines


def test_two_nodes_share_one_engine_and_the_last_closes_it(turbo, player):
    player.make_vae("voice")
    (one, _), (two, _) = (run(LoadVaeEngine, at, model=turbo, engine="voice", otherwise=TORCH) for at in "78")
    assert one is two
    before = fingerprint(LoadVaeEngine, engine="voice")
    run(LoadVaeEngine, model=turbo, engine="gone", otherwise=TORCH)
    assert one.executor.engine is not None and fingerprint(LoadVaeEngine, engine="voice") != before
    run(LoadVaeEngine, "8", model=turbo, engine="gone", otherwise=TORCH)
    assert one.executor.engine is None and not player.library.open_engines


def test_the_list_tells_which_node_plays_it(turbo, player, folder):
    player.make_vae("voice"), player.make_vae("encoder", "vae_encoder"), player.make("decoder")
    told = {state.plan.stem: folders.describe(state) for state in loader.Place([folder], turbo).survey()}
    assert told["voice"].endswith("(for Load VAE Engine)") and told["encoder"].endswith("which no node plays)")
    assert "node" not in told["decoder"]
