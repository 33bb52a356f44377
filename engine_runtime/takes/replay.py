"""Replay of a take: the same changes and requests before the same steps."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from torch import Tensor

from ..engines.contract import Engine
from ..errors import TakeError, plain
from ..lora.adapter import Adapter
from ..lora.stack import stacked_for
from ..spec import ModelSpec
from ..stream.request import Request
from ..stream.session import Session
from ..stream.sessions import runtime
from .codec import fingerprint
from .take import ADAPTED, CLEARED, CONFIGURED, FAILED, SUBMITTED, TURNED, Event, Log, origin_of

_names = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Replay:
    """The result of a replay, in the order of finishing.

    Attributes:
        latents: `[T, C]` on the CPU; more than the take's where it ended with some in flight.
        expected: fingerprints of the take's latents.
        changed: differences from the take's origin (engine, versions, device) as "name: then, now", and the steps of
            the take that failed.
    """

    requests: list[Request]
    latents: list[Tensor]
    expected: list[str]
    changed: list[str]

    @cached_property
    def differing(self) -> list[int]:
        """List the indices, from 0, of the take's latents that differ or are missing."""
        made = [fingerprint(latent) for latent in self.latents]
        return [i for i, wanted in enumerate(self.expected) if i >= len(made) or made[i] != wanted]


def replay(
    log: Log,
    engine: Engine,
    on_tick: Callable[[int, int], None] = lambda done, total: None,
    force: bool = False,
    adapters: Iterable[Adapter] = (),
) -> Replay:
    """Play a take again, and on until nothing is in flight.

    Steps with nothing in flight change nothing and are skipped, so that a file with a huge tick number costs nothing.

    Args:
        log: the take.
        engine: the one it was played on, loaded again.
        on_tick: called before each step with the take's steps done and the total; what it raises ends the replay and is
            passed on.
        force: replay on another engine too.
        adapters: the take's adapters, read for this engine.

    Raises:
        TakeError: for an engine of another model, for another engine, or without an adapter of the take.
    """
    check_spec(log, engine.spec)
    if not force:
        check_engine(log, engine)
    known = {adapter.digest: adapter for adapter in adapters}
    _check_adapters(log, known)
    coming = deque((tick, list(events)) for tick, events in itertools.groupby(log.events, attrgetter("tick")))
    tick, done = 0, []
    try:
        engine.ready()
        with runtime().playing(f"replay-{next(_names)}", engine, log.config, log.knobs) as session:
            while coming or not session.idle:
                if coming and session.idle:
                    tick = coming[0][0]
                on_tick(tick, max(log.ticks, tick + 1))
                for event in coming.popleft()[1] if coming and coming[0][0] == tick else ():
                    _tell(session, event, known)
                done += [(finished.request, finished.take().cpu()) for finished in session.step()]
                tick += 1
            on_tick(max(log.ticks, tick), max(log.ticks, tick))
    finally:
        engine.rest()
    return Replay([r for r, _ in done], [x for _, x in done], list(log.latents), _changed(log, engine))


def check_spec(log: Log, spec: ModelSpec) -> None:
    """Raise `TakeError` for a model whose sizes are not those of the take."""
    if log.spec != spec:
        raise TakeError(
            f"the take is of {log.spec} and this engine plays {spec}",
            "its latents and conditions fit no other model",
            "load the model that it was made with",
        )


def check_engine(log: Log, engine: Engine) -> None:
    """Raise `TakeError` for an engine that the take was not played on."""
    if engine.identity != log.engine:
        raise TakeError(
            f"the take was played on {log.engine} and this engine is {engine.identity}",
            "only the same one repeats it bit by bit, and weight files that were fetched again count as others",
            "load what it was played on, or force the replay",
        )


def _check_adapters(log: Log, known: Mapping[str, Adapter]) -> None:
    wanted: dict[str, str] = {}
    for event in log.events:
        if event.kind == ADAPTED:
            wanted.update(zip(event.what["digests"], event.what["names"], strict=True))
    missing = [f"{name} ({digest[:16]})" for digest, name in wanted.items() if digest not in known]
    if missing:
        raise TakeError(
            f"the take was played with the adapters {', '.join(missing)}",
            "a take names its adapters and does not hold them",
            "give the same files with --lora",
        )


def _tell(session: Session, event: Event, adapters: Mapping[str, Adapter]) -> None:
    if event.kind == CONFIGURED:
        session.configure(**event.what)
    elif event.kind == ADAPTED:
        digests, engine = event.what["digests"], session.engine
        mix = [(adapters[digest], s) for digest, s in zip(digests, event.what["strengths"], strict=True)]
        session.adapt(stacked_for(engine, mix, session.lane) if mix and engine.targets else None)
    elif event.kind == TURNED:
        session.set_unchecked(event.what)
    elif event.kind == CLEARED:
        session.clear()
    elif event.kind == SUBMITTED:
        session.submit_unchecked(event.what)


def _changed(log: Log, engine: Engine) -> list[str]:
    now = {"engine": engine.identity} | origin_of(engine.device)
    then = {"engine": log.engine} | log.origin
    steps = [event.tick for event in log.events if event.kind == FAILED]
    failed = [f"step {step} failed in the take; what plays after it may differ" for step in steps]
    other = [name for name in now if name in then and then[name] != now[name]]
    return [plain(f"{name}: {then[name]}, {now[name]}") for name in other] + failed
