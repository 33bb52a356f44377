"""Tells which requests and engines a ring can take, and which structure a request needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from ..config import StreamConfig, more_rows
from ..engines.contract import Engine
from ..errors import InputError
from .request import Request


class Size(Protocol):
    """The sizes of a ring, as a tick or `SharedSize` has them."""

    @property
    def frames(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def conditions(self) -> int: ...

    @property
    def guidance(self) -> str: ...


class SharedSize(NamedTuple):
    """The sizes that a shared ring has from the start: T, and the rest as in `StreamConfig`."""

    frames: int
    tokens: int
    conditions: int
    guidance: str

    @classmethod
    def of(cls, frames: int, config: StreamConfig) -> SharedSize:
        return cls(frames, config.tokens, config.conditions, config.guidance)


def fits(request: Request, rows: str, ring: Size) -> bool:
    """Return true where a ring can take a request that needs these negative rows, one of `ROW_MODES`."""
    inside = request.tokens <= ring.tokens and len(request.parts) <= ring.conditions
    return inside and _has_rows(rows, ring) and ring.frames == request.frames


def lacks_rows(request: Request, ring: Size) -> bool:
    """Return true where a ring has not the negative rows that a request needs at a hot guidance scale."""
    return not _has_rows(request.guidance.rows(True), ring)


def _has_rows(rows: str, ring: Size) -> bool:
    return more_rows(rows, ring.guidance) == ring.guidance


def check_fits(request: Request, rows: str, ring: SharedSize) -> None:
    """Raise `InputError` for a request that a shared ring can never take."""
    if fits(request, rows, ring):
        return
    raise InputError(
        f"the request has {request.frames} frames, {request.tokens} tokens, {len(request.parts)} conditions and "
        f"guidance rows {rows}",
        f"the ring that sessions share has {ring.frames}, {ring.tokens}, {ring.conditions} and {ring.guidance}",
        "share a larger ring, or open a session of its own",
    )


def check_negative_rows(without: Sequence[Request]) -> None:
    """Raise `InputError` where a hot guidance scale would act on requests that play without negative rows.

    A ring gets its rows when it is built, and a shared one never gets more.
    """
    if any(request.guidance.decodes for request in without):
        raise InputError(
            "the guidance scale is set for requests that play without the negative rows it needs",
            "a ring has them from the start or not at all",
            "open the session with guidance full or initialize, and give the requests a null condition",
        )


def check_same_model(engine: Engine, playing: Engine) -> None:
    """Raise `InputError` for an engine of other sizes, width or device than the one that plays."""
    if engine.spec != playing.spec:
        raise InputError(
            f"the new engine plays {engine.spec}", f"what plays is {playing.spec}", "choose an engine of the same model"
        )
    if (engine.width, engine.device) != (playing.width, playing.device):
        raise InputError(
            f"the new engine takes conditions {engine.width} wide on {engine.device}",
            f"the one that plays takes {playing.width} on {playing.device}",
            "choose an engine of the same model",
        )


def widened(config: StreamConfig, request: Request, rows: str) -> StreamConfig:
    """Return the configuration with what a request needs beyond it."""
    return replace(
        config,
        guidance=more_rows(rows, config.guidance),
        conditions=max(len(request.parts), config.conditions),
        tokens=max(request.tokens, config.tokens),
    )
