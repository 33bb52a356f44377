"""A take played again is the same take, to the bit, and the command that does it says where it is not."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import soundfile
import torch
from ostinato.cli.core_nodes import Folders, next_file, use_folders
from ostinato.cli.main import app
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.controls.knobs import DCW_MODES, KNOBS, WAVELETS, Knobs
from ostinato.engine_runtime.engines.contract import Engine
from ostinato.engine_runtime.errors import InputError, MemoryShortage, TakeError
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.session import Session
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.codec import fingerprint
from ostinato.engine_runtime.takes.render import render
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import TURNED, Log
from ostinato.nodes.save_take import SaveTake
from ostinato.nodes.shared import host
from torch import Tensor
from typer.testing import CliRunner

from ... import live
from ...helpers import Fragile, StandIn, made_up

RANGES = {
    "velocity_scale": (0.5, 1.3),
    "ode_noise": (0.0, 0.5),
    "sde": (0.0, 1.0),
    "guidance_scale": (0.0, 4.0),
    "momentum": (-0.9, 0.5),
    "rescale": (0.0, 1.0),
    "target_strength": (0.0, 0.9),
    "channel_gain": (0.5, 1.5),
    "blend": (0.0, 3.0),
    "dcw_low": (-0.3, 0.5),
    "dcw_high": (-0.3, 0.5),
}
CURVES = tuple(RANGES)


def move(random: Random, frames: int) -> dict[str, Any]:
    """Some knobs, each to a number or a curve."""
    changes: dict[str, Any] = {}
    for name in random.sample(sorted(RANGES), random.randint(1, 3)):
        low, high = RANGES[name]
        seed = random.randrange(1 << 30)
        number = low + (high - low) * random.random()
        curve = low + (high - low) * torch.rand(frames, generator=torch.Generator().manual_seed(seed))
        changes[name] = random.choice((number, number, curve, KNOBS[name].default))
    switches = {"dcw": (True, False), "dcw_mode": DCW_MODES, "dcw_wavelet": WAVELETS}
    if random.random() < 0.3:
        name = random.choice(sorted(switches))
        changes[name] = random.choice(switches[name])
    return changes


def improvise(session: Session, random: Random, frames: int, ask: Callable[[int], Request]) -> None:
    """What hands may do before one tick; what the session refuses does not count."""
    if random.random() < 0.4:
        with suppress(InputError):
            session.set(**move(random, frames))
    if random.random() < 0.05:  # no curve stands in the way of another length
        session.set(**{name: KNOBS[name].default for name in CURVES})
    if random.random() < 0.25:
        for _ in range(random.choice((1, 1, 1, 4))):
            with suppress(InputError):
                session.submit(ask(random.choice((frames, frames, frames, frames + 3))))
    if random.random() < 0.05:
        changes = {
            "depth": random.randint(1, min(6, session.engine.limits.batch)),
            "queue": random.randint(1, 8),
            "spread": random.random() < 0.5,
            "length_change": random.choice(("finish", "drop")),
        }
        session.configure(**{name: changes[name] for name in random.sample(sorted(changes), random.randint(1, 2))})
    if random.random() < 0.01:
        seed = random.randrange(100)
        wave = torch.rand(random.randint(1, 40), generator=torch.Generator().manual_seed(seed))
        session.automate([Track("velocity_scale", 0.5 + 0.7 * wave, random.randint(0, 9), random.random() < 0.5)])
        session.automate([Track("depth", [2, 5, 3], 4), Track("dcw", wave)])


def any_request(random: Random) -> Callable[[int], Request]:
    """Requests with any of the features, of whatever length is asked for."""

    def ask(frames: int) -> Request:
        names = random.sample(sorted(live.FEATURES), random.randint(0, 3))
        return live.draft(random, frames, names).made()

    return ask


@contextmanager
def recording(engine: Engine, config: StreamConfig, knobs: Knobs) -> Iterator[tuple[Session, Log]]:
    log = Log.of(engine, config, knobs)
    with runtime().playing("take", engine, config, knobs, log) as session:
        yield session, log
        log.ticks = session.ticks


def take(engine: Engine, ticks: int, seed: int, frames: int, ask: Callable[[int], Request], **config: Any):
    """A session of random moves: its log and its latents."""
    random, out = Random(seed), []
    with recording(engine, StreamConfig(**config), Knobs(ode_noise=0.1)) as (session, log):
        session.automate([Track("sde", [1.0, 0.8, 0.6, 0.9], 5, loop=True), Track("depth", [2, 4, 3], 20)])
        for _ in range(ticks):
            improvise(session, random, frames, ask)
            out += [finished.take() for finished in session.step()]
    log.finished(out)
    return log, out


def through_a_file(log: Log, path: Path) -> Log:
    log.save(path)
    return Log.load(path)


def identical(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.view(torch.int32), y.view(torch.int32)) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("seed", range(3))
def test_500_ticks_of_random_moves_replay_bit_by_bit(tmp_path: Path, seed: int) -> None:
    ask = any_request(Random(seed + 100))
    log, latents = take(StandIn(reuse=True), 500, seed, 6, ask, depth=3, guidance="full", conditions=4)
    kinds = [event.kind for event in log.events]
    assert log.ticks == 500 and len(latents) > 60
    assert kinds.count("turned") > 200 and kinds.count("submitted") > 80 and kinds.count("configured") > 15
    told = []
    again = replay(through_a_file(log, tmp_path / "take"), StandIn(), lambda *at: told.append(at))
    assert again.differing == [] and again.changed == []
    assert identical(again.latents[: len(latents)], latents) and all(bool(x.isfinite().all()) for x in latents)
    assert len({fingerprint(x) for x in latents}) > 0.9 * len(latents)
    assert told[0] == (log.events[0].tick, 500) and told[-1][0] == told[-1][1] >= 500


def test_what_two_threads_did_replays(tmp_path: Path) -> None:
    """Whenever a hand moves, the log has the tick at which it was heard."""
    engine, random, out = StandIn(), Random(5), []
    with recording(engine, StreamConfig(depth=3, guidance="full", conditions=4), Knobs()) as (session, log):
        ask = any_request(random)

        def hands() -> None:
            for _ in range(120):
                improvise(session, random, 6, ask)

        thread = threading.Thread(target=hands)
        thread.start()
        while thread.is_alive() or not session.idle:
            out += [finished.take() for finished in session.step()]
        thread.join()
    log.finished(out)
    assert len(out) > 5
    again = replay(through_a_file(log, tmp_path / "take"), engine)
    assert again.differing == [] and identical(again.latents, out)


def test_a_render_with_tracks_replays(tmp_path: Path) -> None:
    engine, log = StandIn(), None
    asked = [Request(made_up(i, 6), Sampling(5, seed=i), Guidance(3.0), label=str(i)) for i in range(5)]
    knobs, tracks = Knobs(rescale=0.5), [Track("guidance_scale", [2.0, 4.0, 3.0], loop=True), Track("dcw", [1], 3)]
    config = StreamConfig(depth=2, guidance="full", tokens=5, spread=False)
    log = Log.of(engine, config, knobs)
    latents, _ = render("take", engine, asked, 2, knobs=knobs, tracks=tracks, log=log)
    again = replay(through_a_file(log, tmp_path / "take"), engine)
    assert [r.label for r in again.requests] == ["0", "1", "2", "3", "4"]
    assert again.differing == [] and identical(again.latents, latents)


def test_the_tiny_model_replays(tmp_path: Path, base, conditions) -> None:
    random = Random(3)

    def ask(frames: int) -> Request:
        draft = live.draft(random, frames, random.sample(["mask", "target", "sde_to_source", "guidance_full"], 2))
        draft.request["condition"] = random.choice(conditions(base, frames, 3))
        return draft.made()

    log, latents = take(eager_engine(base, 6), 60, 1, 10, ask, depth=3, guidance="full")
    assert len(latents) > 5 and log.recipe["max_rows"] == 6
    again = replay(through_a_file(log, tmp_path / "take"), eager_engine(base, 6))
    assert again.differing == [] and identical(again.latents[: len(latents)], latents)


def small(engine: Engine, condition, ticks: int | None = None) -> Log:
    """Three requests and a turn; `ticks` ends it early."""
    config, out = StreamConfig(depth=2, spread=False), []
    with recording(engine, config, Knobs()) as (session, log):
        for seed in range(3):
            session.submit(Request(condition, Sampling(4, seed=seed)))
        session.step()
        session.set(velocity_scale=0.8)
        while not session.idle and session.ticks != ticks:
            out += [finished.take() for finished in session.step()]
    log.finished(out)
    return log


def test_a_difference_is_found() -> None:
    engine, log = StandIn(), small(StandIn(), made_up(0, 6))
    turned = next(event for event in log.events if event.kind == TURNED)
    others = [replace(e, what={"velocity_scale": 0.8001}) if e is turned else e for e in log.events]
    assert replay(replace(log, events=others), engine).differing == [0, 1, 2]
    fewer = [event for event in log.events if getattr(event.what, "sampling", Sampling()).seed != 2]
    assert replay(replace(log, events=fewer), engine).differing == [2]


def test_a_take_that_ended_in_flight_plays_on() -> None:
    engine, log = StandIn(), small(StandIn(), made_up(0, 6), ticks=5)
    again = replay(log, engine)
    assert len(log.latents) == 2 and len(again.latents) == 3 and again.differing == []


def test_another_engine_is_refused() -> None:
    log = small(StandIn(), made_up(0, 6))
    with pytest.raises(TakeError, match="stand-in and this engine is other.*fetched again"):
        replay(log, StandIn(identity="other"))
    again = replay(log, StandIn(identity="other"), force=True)
    assert again.differing == [] and again.changed == ["engine: stand-in, other"]


def test_an_interrupt_ends_a_replay() -> None:
    log = small(StandIn(), made_up(0, 6))

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(log, StandIn(), stop)
    assert not runtime().names


# --- the command


def command(*arguments: Any):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


@pytest.fixture
def saved(turbo, conditions, tmp_path: Path) -> Path:
    """A take of the tiny model, as Save Take leaves it on the command line."""
    log = small(eager_engine(turbo, 4), conditions(turbo, 10, 1)[0])
    with use_folders(Folders(tmp_path)), host.use(host.Host(next_file=next_file)):
        return Path(SaveTake.execute(log, "takes/t").ui["files"][0])


def changed(path: Path, **header: Any) -> Path:
    replace(Log.load(path), **header).save(path)
    return path


def refused(result, *words: str) -> None:
    assert result.exit_code == 2 and result.stdout == "", result.output
    assert result.stderr.startswith("ostinato: ") and len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr, result.stderr


def test_the_command_renders_a_take_again(saved: Path, tmp_path: Path) -> None:
    assert saved.name == "t_00001_.safetensors"
    result = command(saved, "--out", tmp_path / "out")
    assert result.exit_code == 0 and result.stderr == "", result.output
    lines = result.stdout.splitlines()
    assert lines[:2] == ["3 latents in 8 ticks", "all 3 of the take are bit-identical"]
    assert [Path(line.removeprefix("wrote ")).name for line in lines[2:]] == [
        f"t_00001_0000{i}_.flac" for i in (1, 2, 3)
    ]
    sound, rate = soundfile.read(tmp_path / "out" / "audio" / "t_00001_00001_.flac", always_2d=True)
    assert (sound.shape, rate) == ((10 * 1920, 2), 48_000) and abs(sound).max() > 0.01


def test_json_says_what_differs(saved: Path, tmp_path: Path) -> None:
    log = Log.load(saved)
    changed(saved, latents=[log.latents[0], "0" * 64, log.latents[2]], origin=log.origin | {"torch": "1.0"})
    result = command(saved, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["latents"], report["compared"], report["differing"], report["identical"]) == (3, 3, [2], False)
    assert report["changed"] == [f"torch: 1.0, {torch.__version__}"] and len(report["files"]) == 3
    text = command(saved, "--out", tmp_path / "out").stdout
    assert f"1 of 3 differ from the take: 2\n  torch: 1.0, {torch.__version__}\nwrote" in text


def test_a_take_without_latents_has_nothing_to_compare(saved: Path, tmp_path: Path) -> None:
    result = command(changed(saved, latents=[]), "--out", tmp_path / "out")
    assert result.exit_code == 0 and "no finished latent to compare with" in result.stdout


def test_the_command_refuses_another_engine(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(command(saved, "--out", out, "--model", "random-base"), "was played on eager:", "force")
    assert not out.exists()
    result = command(saved, "--out", out, "--model", "random-base", "--force")
    assert result.exit_code == 1 and "3 of 3 differ from the take: 1, 2, 3\n  engine: eager:" in result.stdout


def test_the_command_refuses_what_it_cannot_play(saved: Path, tmp_path: Path) -> None:
    refused(command(tmp_path / "none"), "could not be read")
    saved.write_bytes(saved.read_bytes()[:-1])
    refused(command(saved), "could not be read")
    (tmp_path / "file").touch()
    refused(command(saved, "--out", tmp_path / "file"), "--out is")
    assert command(saved, "--device", "tpu").exit_code == 2


def test_the_command_says_that_comfyuis_model_stays_there(saved: Path, tmp_path: Path) -> None:
    changed(saved, recipe=None, engine="eager:core:1")
    refused(command(saved, "--out", tmp_path / "out"), "eager:core:1", "ComfyUI only", "Load Model")
    assert command(saved, "--out", tmp_path / "out", "--model", "random", "--force").exit_code == 0


def test_a_model_that_moved_is_named(turbo, conditions, saved: Path, tmp_path: Path, places) -> None:
    """The recipe holds a folder whole, so that it is found from wherever the command runs."""
    folder = Path(os.environ["OSTINATO_CACHE"]) / "random-1"
    places(here=folder.parent)
    recipe = eager_engine(load("random-1", torch.device("cpu"), torch.float32)).recipe
    assert recipe == {"model": str(folder), "precision": "float32", "device": "cpu", "max_rows": 16}
    lost = Log.load(saved).recipe | {"model": str(tmp_path / "gone")}
    assert command(changed(saved, recipe=lost)).exit_code == 2
    assert command(saved, "--out", tmp_path / "out", "--model", folder).exit_code == 0


def test_two_curves_of_one_knob_in_one_step() -> None:
    """One of this length, one of the next: each acts on its own, also in the replay."""
    engine, config = StandIn(), StreamConfig(depth=2, spread=False)
    log = Log.of(engine, config)
    with runtime().playing("curves", engine, config, log=log) as session:
        session.submit(Request(made_up(1, 6), Sampling(3)))
        session.step()
        session.set(velocity_scale=torch.linspace(0.5, 1.5, 6))
        session.set(velocity_scale=torch.linspace(1.5, 0.5, 9))
        session.submit(Request(made_up(2, 9), Sampling(3)))
        log.finished([f.take() for f in session.play([])])
        log.ticks = session.ticks
    assert not replay(log, engine).differing


def test_a_scale_that_is_turned_after_a_request_without_rows() -> None:
    """Live the request comes first; what was taken in once is taken in again."""
    engine, config = StandIn(), StreamConfig(depth=2, spread=False)
    log = Log.of(engine, config)
    with runtime().playing("order", engine, config, log=log) as session:
        session.submit(Request(made_up(1, 6, guided=False), Sampling(3), Guidance(1.0)))
        session.set(guidance_scale=3.0)
        log.finished([f.take() for f in session.play([])])
    assert not replay(log, engine).differing


def test_a_depth_that_could_not_be_had() -> None:
    """It is in the take, and that it was given up."""
    engine, config = Fragile(most=2), StreamConfig(depth=2, spread=False)
    log = Log.of(engine, config)
    with runtime().playing("no room", engine, config, log=log) as session:
        for i in range(4):
            session.submit(Request(made_up(i, 6), Sampling(3, seed=i)))
        session.step()
        session.configure(depth=4)
        with pytest.raises(MemoryShortage):
            session.step()
        log.finished([f.take() for f in session.play([])])
        log.ticks = session.ticks
    again = replay(log, StandIn())
    assert len(again.latents) == 4 and not again.differing
