"""A model of other sizes plays through ring, tick, decode, take and replay; nothing takes it for ACE-Step."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode, hop_of
from ostinato.engine_runtime.audio.encode import prepare_audio
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.controls import curves, from_audio
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.engines.contract import limits_of
from ostinato.engine_runtime.errors import AudioError, EngineLimitError, InputError, TakeError
from ostinato.engine_runtime.spec import ACE_STEP, ModelSpec
from ostinato.engine_runtime.stream.request import Condition, Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.render import record, render
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import METADATA, Log
from ostinato.nodes.shared import control_values, layout
from ostinato.nodes.stream_denoise import StreamDenoise
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..helpers import StandIn, made_up, play
from ..live import CLOSE
from ..second_model import HUM, SPECS, SecondEngine, condition, everything, expected, knobs, vae_of

both = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
FRAMES = 10  # no multiple of a patch of 3
_names = itertools.count()


@both
@pytest.mark.parametrize("mode", ["full", "initialize", "self"])
def test_guided_and_masked_in_company_it_equals_the_reference(spec: ModelSpec, mode: str) -> None:
    requests, turned = [everything(spec, seed, FRAMES, mode) for seed in range(3)], knobs(spec, FRAMES)
    rows = "off" if mode == "self" else mode
    latents = play(SecondEngine(spec), requests, turned, depth=2, guidance=rows, conditions=2, tokens=9)
    for latent, request in zip(latents, requests, strict=True):
        assert latent.shape == (FRAMES, spec.channels) and latent.dtype == torch.float32
        np.testing.assert_allclose(latent, expected(request, lambda _: turned), **CLOSE)


@both
def test_its_take_is_replayed_bit_by_bit_from_a_file(spec: ModelSpec, tmp_path) -> None:
    engine, path = SecondEngine(spec), tmp_path / "take"
    requests, tracks = [everything(spec, seed, FRAMES) for seed in range(4)], [Track("rescale", [0.1, 0.5], loop=True)]
    start = knobs(spec, FRAMES)
    latents, stats, log = record("second", engine, requests, 2, lambda done, total: None, start, tracks)
    log.save(path)
    read = Log.load(path)
    again = replay(read, SecondEngine(spec))
    assert read.spec == spec and {request.spec for request in again.requests} == {spec}
    assert again.differing == [] and again.changed == [] and len(again.latents) == len(latents) == 4
    by_seed = {r.sampling.seed: latent for r, latent in zip(again.requests, again.latents, strict=True)}
    assert all(torch.equal(by_seed[i], latent) for i, latent in enumerate(latents))
    assert stats.audio_seconds == pytest.approx(4 * FRAMES / spec.frame_rate)
    assert f"{FRAMES / spec.frame_rate:g} s each" in stats.text()


def taken(engine, request: Request, path, **config):
    log = Log.of(engine, StreamConfig(depth=1, spread=False, tokens=9, **config), Knobs())
    render(f"taken {next(_names)}", engine, [request], 1, log=log)
    log.save(path)
    return Log.load(path)


def test_a_take_of_another_model_is_refused_even_by_force(tmp_path) -> None:
    hum = taken(SecondEngine(HUM), Request(condition(HUM, 1, 5), Sampling(2)), tmp_path / "hum")
    ours = taken(StandIn(), Request(made_up(1, 5), Sampling(2)), tmp_path / "ours")
    for log, engine in ((hum, StandIn()), (ours, SecondEngine(HUM)), (hum, SecondEngine(replace(HUM, hop=321)))):
        engine.identity = log.engine
        with pytest.raises(TakeError, match="the take is of .* and this engine plays .*; load the model"):
            replay(log, engine, force=True)
    assert replay(ours, StandIn()).differing == []


def header(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[METADATA])


def rewritten(path, data: dict):
    save_file(load_file(path), path, {METADATA: json.dumps(data)})
    return path


def test_takes_of_ace_step_keep_their_format(tmp_path) -> None:
    taken(StandIn(), Request(made_up(1, 5), Sampling(2)), tmp_path / "ours")
    taken(SecondEngine(HUM), Request(condition(HUM, 1, 5), Sampling(2)), tmp_path / "hum")
    ours, hum = header(tmp_path / "ours"), header(tmp_path / "hum")
    assert ours["format"] == 1 and "spec" not in json.dumps(ours)
    assert hum["format"] == 2 and hum["spec"]["channels"] == 8 and json.dumps(hum).count("spec") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda spec: spec.pop("hop"), "'hop'"),
        (lambda spec: spec.update(colour=3), "'colour'"),
        (lambda spec: spec.update(channels=0), "channels is 0"),
        (lambda spec: spec.update(channels="8"), "channels"),
        (lambda spec: spec.update(frame_rate=10**12), "frame rate is 1000000000000"),
        (lambda spec: spec.update(channels=6), r"has shape \[5, 8\]"),
    ],
)
def test_a_take_with_other_sizes_than_its_tensors_or_none_is_refused(tmp_path, change, says) -> None:
    path = tmp_path / "hum"
    request = everything(HUM, 1, 5)
    taken(SecondEngine(HUM), request, path, guidance="full", conditions=2)
    data = header(path)
    change(data["spec"])
    with pytest.raises(TakeError, match=says):
        Log.load(rewritten(path, data))


def test_requests_and_engines_of_two_models_do_not_meet() -> None:
    engine, ours, theirs = SecondEngine(HUM), made_up(1, 5, width=12), condition(HUM, 1, 5)
    with pytest.raises(InputError, match=r"for ACE-Step 1.5 \(64 channels and 128 of context, 25 frames.*Hum \(8 ch"):
        play(engine, [Request(ours)])
    with pytest.raises(InputError, match="for Hum .*; the engine plays ACE-Step 1.5"):
        play(StandIn(width=12), [Request(theirs)])
    mixed = control_values.as_parts(ours, 1.0, 0.0, 1.0) + control_values.as_parts(theirs, 1.0, 0.0, 1.0)
    with pytest.raises(InputError, match="all must be of one model"):
        Request(mixed)
    with (
        runtime().playing("swapped", StandIn(width=12), StreamConfig()) as session,
        pytest.raises(InputError, match="the new engine plays Hum"),
    ):
        session.stage.swap(engine)


@both
def test_a_curve_for_each_channel_has_the_models_channels(spec: ModelSpec) -> None:
    wrong = torch.ones(FRAMES, 64)
    with pytest.raises(InputError, match=rf"\[frames, {spec.channels}\]"):
        play(SecondEngine(spec), [Request(condition(spec, 1, FRAMES))], Knobs(channel_gain=wrong))
    with runtime().playing("wide", SecondEngine(spec), StreamConfig()) as session:
        with pytest.raises(InputError, match=rf"\[frames, {spec.channels}\]"):
            session.set(channel_gain=wrong)
        session.set(channel_gain=torch.ones(FRAMES, spec.channels))


def test_conditions_and_sources_are_checked_against_its_sizes() -> None:
    tokens, empty = torch.zeros(3, 12), torch.zeros(5, 0)
    for wrong in (
        lambda: Condition(tokens, torch.zeros(5, 128), spec=HUM),
        lambda: Condition(torch.zeros(3, 11), empty, spec=HUM),  # a family whose weights all have one width
        lambda: Request(Condition(tokens, empty, spec=HUM), source=torch.zeros(5, 64)),
        lambda: Request(Condition(tokens, empty, spec=HUM), noise=torch.zeros(5, 64)),
    ):
        with pytest.raises(InputError, match="has shape"):
            wrong()
    with pytest.raises(EngineLimitError, match="1501 frames were asked.*it takes 1 to 1500"):  # 30 s at 50 Hz
        play(SecondEngine(HUM), [Request(condition(HUM, 1, 1501))])
    assert limits_of(3, HUM).frames == 1500 and limits_of(3).frames == 15_000


@pytest.mark.parametrize(("spec", "strides"), [(HUM, (2, 4, 4, 10)), (SPECS[1], (4, 6, 10, 10))])
def test_its_latents_are_decoded_at_its_own_rate(spec: ModelSpec, strides: tuple[int, ...]) -> None:
    vae, z = vae_of(spec, strides), torch.randn(1, FRAMES, spec.channels, generator=torch.Generator().manual_seed(0))
    assert hop_of(vae) == spec.hop
    whole = decode(vae, z)
    assert whole.shape == (1, spec.audio_channels, FRAMES * spec.hop)
    torch.testing.assert_close(decode(vae, z, 3), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    torch.testing.assert_close(decode(LiveVae(vae), z), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    with pytest.raises(InputError, match=rf"allowed is \[any, any, {spec.channels}\]"):
        decode(vae, torch.zeros(1, 4, 64))


def test_audio_is_brought_to_its_rate_and_channels() -> None:
    tone = torch.sin(torch.arange(48_000) / 20)[None]
    assert prepare_audio(tone, 48_000, HUM).shape == (1, 16_000)
    assert prepare_audio(tone, 48_000, SPECS[1]).shape == (2, 24_000)
    with pytest.raises(AudioError, match="allowed is one clip, mono; mix it down"):
        prepare_audio(tone.expand(2, -1), 48_000, HUM)


def test_seconds_are_its_frames() -> None:
    assert HUM.sample_rate == 16_000 and HUM.max_frames == 1500 and HUM.seconds(75) == 1.5
    assert (HUM.frames_of(0.28), HUM.frame_at(1.16)) == (14, 58)
    assert (ACE_STEP.frames_of(0.28), ACE_STEP.frame_at(1.16)) == (7, 29)
    assert [SPECS[1].padded(n) for n in (1, 3, 10)] == [3, 3, 12]
    with pytest.raises(InputError, match="at most 30"):
        HUM.frames_of(31)


def test_curves_keep_time_at_its_rate() -> None:
    line = curves.ramp(0.0, 1.0, 0.0, 1.0)  # one second up
    at_50, at_25 = line.values(101, 50), line.values(51)
    np.testing.assert_array_equal(at_50[::2], at_25)
    assert at_50[50] == 1.0 and at_50[49] < 1.0
    swing = curves.lfo("square", 2.0)  # 0.25 s high, 0.25 s low
    np.testing.assert_array_equal(swing.values(25, 50), [1.0] * 13 + [0.0] * 12)
    np.testing.assert_array_equal(curves.shift(line, 1.0).values(101, 50)[50:], at_50[:51])
    assert from_audio.beat_grid(60.0, 1, 0.0, 200.0).values(101, 50).argmax() == 0
    np.testing.assert_array_equal(
        np.flatnonzero(from_audio.beat_grid(60.0, 1, 0.0, 200.0).values(101, 50) == 1.0), [0, 50, 100]
    )
    with pytest.raises(InputError, match="8 Hz are asked of 5 frames; allowed are 5 Hz"):
        curves.lfo("sine", 8.0).values(5, 10)
    tone = np.sin(np.arange(16_000) / 5)[None]
    assert from_audio.envelope(tone, 16_000, 10.0, 200.0, HUM).frames == from_audio.frames_of(16_000, 16_000, HUM) == 50


def test_the_node_plays_it() -> None:
    """From Stream Denoise: the source's width, a curve in seconds, a gain of some channels and the mask are its own."""
    source = {"samples": torch.randn(1, 8, 100, generator=torch.Generator().manual_seed(2))}
    swing = curves.lfo("square", 1.0, low=0.5, high=1.0)
    made = StreamDenoise.execute(
        engine=SecondEngine(HUM),
        condition=condition(HUM, 3, 100),
        count=1,
        depth=1,
        seed_step=1,
        knobs={"velocity_scale": swing, "channel_gain": ((0.5, 2, 5),)},
        shape={"mask": swing},
        source=source,
        steps=3,
        shift=1.0,
        denoise=1.0,
        seed=4,
        solver="ode",
    )
    wave = torch.from_numpy(swing.values(100, 50))
    gain = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0])
    request = Request(
        condition(HUM, 3, 100),
        Sampling(3, 1.0, seed=4),
        source=source["samples"][0].T.contiguous(),
        mask=wave[:, None].expand(-1, 8).contiguous(),
    )
    want = expected(request, lambda _: Knobs(velocity_scale=wave, channel_gain=gain))
    np.testing.assert_allclose(made[0]["samples"][0].T, want, **CLOSE)
    with pytest.raises(InputError, match=r"a latent of Hum is \[batch, 8, frames\]"):
        layout.from_latent({"samples": torch.zeros(1, 64, 5)}, "x", HUM)


@pytest.mark.parametrize("size", ["channels", "frame_rate", "hop", "patch", "audio_channels", "max_tokens", "steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, 1 << 40])
def test_a_size_is_a_whole_number(size: str, value) -> None:
    with pytest.raises(InputError, match=f"the model's {size.replace('_', ' ')} is"):
        replace(HUM, **{size: value})
