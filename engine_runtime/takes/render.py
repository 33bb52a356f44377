"""Rendering of a batch of requests through a ring of its own, start to end, as the Stream Denoise node does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

from torch import Tensor

from ..config import NO_GUIDANCE, Guidance, Sampling, StreamConfig, more_rows
from ..controls.automation import DEPTH, Track
from ..controls.knobs import Knobs
from ..engines.contract import Engine
from ..errors import InputError, check_range
from ..lora.stack import Mix, stacked_for
from ..stream.request import Condition, Part, Request
from ..stream.session import Session
from ..stream.sessions import runtime
from ..stream.stats import Stats
from .take import Log


def seeds(first: int, count: int, step: int) -> list[int]:
    """List `count` seeds, `step` apart, modulo 2^64."""
    return [(first + i * step) % 2**64 for i in range(count)]


def take_batch(
    condition: Condition | tuple[Part, ...],
    first: Sampling,
    count: int,
    seed_step: int,
    guidance: Guidance | None = None,
    sources: Sequence[Tensor] = (),
    masks: Sequence[Tensor] | None = None,
    noises: Sequence[Tensor] | None = None,
    schedule: tuple[float, ...] | None = None,
    **shared: Any,
) -> list[Request]:
    """Make `count` requests that differ in their seed and, where several are given, in their source.

    Args:
        first: sampling of the first request; the others add `seed_step` to its seed.
        sources: none, one for all, or one for each request, `[T, C]`.
        masks: as many as sources, `[T, C]`.
        noises: as many as sources, `[T, C]`; used instead of the noise drawn from the seed.
        schedule: sigmas, used instead of those of `first`.
        shared: further fields of all requests.

    Raises:
        InputError: for another number of sources.
    """
    check_range("count", count, 1, 1 << 16, "make at least one generation")
    if len(sources) not in (0, 1, count):
        raise InputError(
            f"{len(sources)} sources were given for {count} generations",
            f"allowed are none, 1 or {count}",
            "change the count or the batch",
        )
    return [
        Request(
            condition,
            replace(first, seed=seed),
            guidance or NO_GUIDANCE,
            sources[i % len(sources)] if sources else None,
            noise=noises[i % len(noises)] if noises else None,
            schedule=schedule,
            mask=masks[i % len(masks)] if masks else None,
            **shared,
        )
        for i, seed in enumerate(seeds(first.seed, count, seed_step))
    ]


@contextmanager
def _awake(engine: Engine) -> Iterator[None]:
    try:
        engine.ready()
        yield
    finally:
        engine.rest()


def render(
    name: str,
    engine: Engine,
    requests: Sequence[Request],
    depth: int = StreamConfig.depth,
    on_tick: Callable[[int, int], None] = lambda done, total: None,
    knobs: Knobs | None = None,
    tracks: Sequence[Track] = (),
    log: Log | None = None,
    adapters: Mix = (),
    stopped: Callable[[Sequence[Tensor]], None] = lambda finished: None,
) -> tuple[list[Tensor], Stats]:
    """Play requests and return their latents in the order given, `[T, C]` each, on the engine's device.

    Args:
        name: the session's id; it is open while this runs.
        engine: the decoder.
        requests: at least one, each only once.
        depth: slots in the ring.
        on_tick: called before each tick with the steps done and the total; what it raises ends the stream and is passed
            on.
        knobs: hot knobs to start with.
        tracks: automation of knobs.
        log: made with `Log.of` for `stream_config` of these requests; records the take.
        adapters: adapters and their strengths, from the first tick.
        stopped: called with the latents that were finished, in order, where `on_tick` or the user stops the stream.

    Raises:
        InputError: for no request, or one given twice.
    """
    order = {id(request): i for i, request in enumerate(requests)}
    if not requests or len(order) < len(requests):
        raise InputError(
            f"{len(requests)} requests were given, {len(order)} of them different",
            "allowed are one or more, each once",
            "make a request of its own for every latent",
        )
    config = stream_config(requests, depth, knobs, tracks)
    latents: dict[int, Tensor] = {}
    total = sum(r.steps for r in requests)
    try:
        with _awake(engine), runtime().playing(name, engine, config, knobs, log) as session:
            if adapters:
                lane = runtime().lane(engine.device)
                session.adapt(stacked_for(engine, adapters, lane))
            session.automate(track for track in tracks if track.span is None)
            turn = _run_tracks(session, [track for track in tracks if track.span is not None])

            def before() -> None:
                on_tick(session.steps_done, total)
                turn(session.steps_done, total, len(requests) - len(latents))

            for finished in session.play(requests, before):
                latents[order[id(finished.request)]] = finished.take()
            on_tick(session.steps_done, total)
            session.settle()
            if log is not None:
                log.ticks = session.ticks
                log.finished(list(latents.values()))
            return [latents[i] for i in range(len(requests))], session.stats()
    except BaseException as error:
        if not isinstance(error, Exception) and latents:  # no error: hosts stop a node by what is none
            stopped([latents[i] for i in sorted(latents)])
        raise


def _run_tracks(session: Session, tracks: Sequence[Track]) -> Callable[[int, int, int], None]:
    """Return the function that turns the knobs of tracks over the run before a tick; the take notes what it turned.

    It takes the steps done, the steps in all, and the requests that are not finished. The last tick's share is 1.
    """
    now: dict[str, Any] = {}

    def turn(done: int, total: int, left: int) -> None:
        share = done / max(total - min(left, session.config.depth), 1)
        values = {track.knob: track.in_run(min(share, 1.0)) for track in tracks}
        moved = {knob: value for knob, value in values.items() if value is not None and value != now.get(knob)}
        now.update(moved)
        if DEPTH in moved:
            session.configure(depth=moved.pop(DEPTH))
        if moved:
            session.set(**moved)

    return turn


def record(
    name: str,
    engine: Engine,
    requests: Sequence[Request],
    depth: int,
    on_tick: Callable[[int, int], None],
    knobs: Knobs,
    tracks: Sequence[Track] = (),
    adapters: Mix = (),
    stopped: Callable[[Sequence[Tensor]], None] = lambda finished: None,
) -> tuple[list[Tensor], Stats, Log]:
    """Play requests as `render` does, and return the take too."""
    log = Log.of(engine, stream_config(requests, depth, knobs, tracks), knobs)
    return *render(name, engine, requests, depth, on_tick, knobs, tracks, log, adapters, stopped), log


def stream_config(
    requests: Sequence[Request], depth: int, knobs: Knobs | None = None, tracks: Sequence[Track] = ()
) -> StreamConfig:
    """Return the configuration of the ring that a batch needs."""
    moved = any(track.knob == "guidance_scale" for track in tracks)
    hot = moved or (knobs or Knobs()).guidance_scale is not None
    return StreamConfig(
        depth=depth,
        guidance=reduce(more_rows, (r.guidance.rows(hot) for r in requests)),
        conditions=max(len(r.parts) for r in requests),
        tokens=max(r.tokens for r in requests),
        hot_guidance=moved,
        spread=False,  # a batch is wanted soonest, not evenly
    )
