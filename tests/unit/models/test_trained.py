"""The built-in `tiny`, listened to: what is asked for is heard, and what is kept stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.config import Guidance, Sampling
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import Model, load
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.models.trained import HOME
from ostinato.engine_runtime.stream.request import Request
from ostinato.tools.tiny import detect, net
from ostinato.tools.tiny.listen import Heard, Reference, hear
from ostinato.tools.tiny.structure import load_structure
from ostinato.tools.tiny.vae import load_vae
from safetensors.torch import load_file
from torch import Tensor

from ...helpers import play

CPU = torch.device("cpu")
HOUSE = Prompt("deep house, piano, synth bass, drums", bpm=124, key="F minor", time_signature="4", seconds=10)
CLASSICAL = Prompt("classical, flute and piano, no drums", bpm=90, key="C major", time_signature="4", seconds=10)


@pytest.fixture(scope="module")
def tiny(cache: None) -> Model:
    return load("tiny", CPU, torch.float32)


@pytest.fixture(scope="module")
def tiny_base(cache: None) -> Model:
    return load("tiny-base", CPU, torch.float32)


def asked(model: Model, prompt: Prompt, seed: int = 1, **given) -> Request:
    sampling = Sampling(seed=seed, denoise=given.pop("denoise", 1.0), steps=given.pop("steps", 8))
    return Request(encode_prompt(model, prompt, given.get("source")), sampling, **given)


def sound(model: Model, latent: Tensor) -> np.ndarray:
    return decode(model.pipe.vae, latent[None])[0].numpy()


@pytest.fixture(scope="module")
def streamed(tiny: Model) -> list[Tensor]:
    """Two clips of one stream, between which the prompt changes."""
    return play(eager_engine(tiny), [asked(tiny, HOUSE), asked(tiny, CLASSICAL, 2)], depth=2)


@pytest.fixture(scope="module")
def house(tiny: Model, streamed: list[Tensor]) -> np.ndarray:
    return sound(tiny, streamed[0])


def check(heard: Heard, prompt: Prompt, style: str, drums: bool) -> None:
    """Tempo, style, drums; neither hiss nor silence nor drone."""
    reference = Reference.load()
    assert detect.tempo_ok(heard.bpm, prompt.bpm), heard.bpm
    assert (reference.told(heard, "style"), reference.told(heard, "drums")) == (style, drums)
    assert heard.flatness < 0.2 and heard.regularity > 0.2 and heard.silence < 0.2 and 0.05 < heard.rms < 0.3


@pytest.mark.slow
def test_a_prompt_change_in_a_stream_moves_tempo_and_instruments(tiny, streamed, house) -> None:
    check(hear(house), HOUSE, "house", True)
    check(hear(sound(tiny, streamed[1])), CLASSICAL, "classical", False)


def test_a_replay_is_the_same(tiny, streamed) -> None:
    assert torch.equal(play(eager_engine(tiny), [asked(tiny, HOUSE)], depth=2)[0], streamed[0])


def test_the_key_is_played(tiny, streamed) -> None:
    """C major, or A minor, which has the same notes."""
    found = Reference.load().key(hear(sound(tiny, streamed[1])))
    assert detect.key_ok(found, 0, False) in ("exact", "relative"), found


def test_a_mask_makes_anew_what_it_says_and_keeps_the_rest(tiny, streamed, house) -> None:
    window, source = slice(100, 150), streamed[0]
    mask = torch.zeros_like(source)
    mask[window] = 1
    prompt = Prompt(**{**HOUSE.__dict__, "task": "repaint", "repaint_start": 4.0, "repaint_end": 6.0})
    latent = play(eager_engine(tiny), [asked(tiny, prompt, 3, source=source, mask=mask)])[0]
    kept = mask[:, 0] == 0
    assert torch.allclose(latent[kept], source[kept], atol=1e-4)
    assert (latent[window] - source[window]).square().mean() > 0.1
    y, second = sound(tiny, latent), detect.RATE
    assert np.abs(y - house)[:, : 3 * second].max() < 1e-2 and np.abs(y - house)[:, 7 * second :].max() < 1e-2
    assert np.abs(y - house)[:, 4 * second : 6 * second].max() > 0.1
    assert detect.tempo_ok(detect.tempo(y), HOUSE.bpm)


@pytest.mark.slow
def test_little_denoise_keeps_the_onsets_and_full_denoise_does_not(tiny, streamed, house) -> None:
    other = Prompt(**{**CLASSICAL.__dict__, "bpm": 90})
    kept, new = (
        sound(tiny, play(eager_engine(tiny), [asked(tiny, other, 5, source=streamed[0], denoise=d)])[0])
        for d in (0.3, 1.0)
    )
    before = detect.onsets(house)
    alike = [np.corrcoef(before, detect.onsets(y))[0, 1] for y in (kept, new)]
    assert alike[0] > 0.45 > 0.25 > alike[1], alike


@pytest.mark.slow
def test_a_cover_keeps_chords_and_tempo_and_changes_the_instruments(tiny, streamed, house) -> None:
    """Beside a piece that the same words make without the source, in the same key and tempo."""
    words = {"bpm": HOUSE.bpm, "key": HOUSE.key, "time_signature": "4", "seconds": 10}
    tags = "jazz trio, vibraphone, upright bass, drums"
    cover, text = (Prompt(tags, task=task, **words) for task in ("cover", "text2music"))
    requests = [asked(tiny, cover, 7, source=streamed[0]), asked(tiny, text, 7)]
    made, other = (hear(sound(tiny, latent)) for latent in play(eager_engine(tiny), requests))
    before = hear(house)
    alike = [detect.chords_alike(before.chromagram, heard.chromagram) for heard in (made, other)]
    assert alike[0] > 0.6 and alike[0] > alike[1] + 0.2, alike
    assert detect.tempo_ok(made.bpm, HOUSE.bpm)
    assert Reference.load().told(made, "style") != "house"


@pytest.mark.slow
def test_the_base_follows_with_guidance(tiny_base) -> None:
    latent = play(eager_engine(tiny_base), [asked(tiny_base, HOUSE, steps=12, guidance=Guidance(scale=3.0))])[0]
    check(hear(sound(tiny_base, latent)), HOUSE, "house", True)


def test_tempo_and_key_are_one_token_each_however_they_are_spelt(tiny) -> None:
    spelt = tiny.pipe.tokenizer
    tokens = spelt.tokenize("house, 124 bpm, F minor\n- bpm: 124")
    assert tokens.count(" 124") == 2 and tokens.count("f minor") == 1
    assert spelt("D# Minor").input_ids == spelt("eb minor").input_ids
    assert spelt("124BPM, House").input_ids == spelt("124bpm, house").input_ids


def test_the_weights_are_small_and_so_is_their_folder(cache, tiny) -> None:
    assert sum(p.stat().st_size for p in HOME.glob("*.safetensors")) <= 40_000_000
    assert sum(p.stat().st_size for p in preset_folder("tiny").rglob("*")) < 64e6


def test_the_vae_is_the_one_that_was_trained(tiny) -> None:
    trained, x = load_vae(str(HOME / "vae.safetensors"), "cpu"), torch.randn(1, 2, 19_200) * 0.1
    with torch.no_grad():
        latent = trained.encode(x)[0]
        assert torch.allclose(tiny.pipe.vae.encode(x).latent_dist.mode(), latent, atol=1e-4)
        assert torch.allclose(tiny.pipe.vae.decode(latent).sample, trained.decode(latent), atol=1e-4)


def test_the_tokenizer_of_covers_is_the_one_that_was_trained(tiny) -> None:
    structure, z = load_structure(str(HOME / "structure.safetensors"), "cpu"), torch.randn(2, 25, 64)
    with torch.no_grad():
        quantized, _ = tiny.pipe.audio_tokenizer.tokenize(z)
        hints = tiny.pipe.audio_token_detokenizer(quantized)
        assert torch.allclose(hints, structure(z), atol=1e-3)
        assert hints.std() > 0.3 and (hints[0] - hints[1]).abs().mean() > 0.3


@pytest.mark.parametrize("kind", ["turbo", "base"])
def test_the_decoder_is_the_one_that_was_trained(tiny, tiny_base, kind: str) -> None:
    """One velocity of the package's classes on an encoded prompt, and of the trainer's networks on its text."""
    model, weights = (tiny, tiny_base)[kind == "base"], load_file(HOME / "base.safetensors")
    adapter = load_file(HOME / "turbo.safetensors") if kind == "turbo" else {}
    for name in (n.removesuffix(".a") for n in adapter if n.endswith(".a")):
        factors = adapter[f"{name}.b"].float() @ adapter[f"{name}.a"].float()
        weights[f"transformer.{name}"] = weights[f"transformer.{name}"] + factors
    weights |= {f"transformer.{n}": t for n, t in adapter.items() if not n.endswith((".a", ".b"))}
    silence = weights.pop("silence")
    parts = net.build(len(model.pipe.tokenizer))
    parts.load_state_dict({name: t.float() for name, t in weights.items()})
    condition, x, t = encode_prompt(model, HOUSE), torch.randn(1, 250, 64), torch.tensor([0.7])
    assert torch.allclose(condition.context[:, :64], silence.float().expand(250, 64), atol=1e-3)
    text = int((condition.tokens.abs().sum(1) > 0).sum())
    said = {"bpm": 124, "keyscale": "F minor", "timesignature": "4", "audio_duration": 10.0}
    prompt = model.pipe._format_prompt(prompt=HOUSE.tags, lyrics="", vocal_language="en", **said)[0]
    ids = model.pipe.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        keys, bias = net.condition(
            parts, ids, torch.tensor([text]), torch.tensor([len(condition.tokens) - text]), torch.tensor([False])
        )
        ours = net.velocity(parts["transformer"], x, t, keys, bias, condition.context[None])
        theirs = model.pipe.transformer(
            hidden_states=x,
            timestep=t,
            timestep_r=t,
            encoder_hidden_states=condition.tokens[None],
            context_latents=condition.context[None],
        )[0]
    assert text == ids.shape[1]
    assert (ours - theirs).norm() / theirs.norm() < 2e-3  # the merged weights are rounded to float16
