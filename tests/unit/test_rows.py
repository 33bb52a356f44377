"""The tools that measure guidance for less and a windowed stream: what they play is what the runtime plays."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling
from ostinato.engine_runtime.stream.request import Request
from ostinato.tools.rows import guidance, window
from ostinato.tools.rows.pieces import SEED, Pieces, relative, spectral

from ..helpers import drawn, play

STEPS, SECONDS = 5, 2.0


@pytest.fixture(scope="module")
def base() -> Pieces:
    return Pieces("tiny-base", 2, SECONDS)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("full", {}),
        ("interval 0 to 0.5", {"end": 0.5}),
        ("initialize", {"mode": "initialize"}),
        ("self", {"mode": "self"}),
        ("every 2, keeps the push", {"every": 2}),
        ("every 3 to 0.5, keeps the push", {"every": 3, "end": 0.5}),
    ],
)
def test_a_way_that_the_runtime_has_is_the_runtimes(base, name, given):
    asked = Guidance(3.0, **given)
    made, rows = guidance.Player(base, STEPS, asked).play(guidance.ways()[name])
    requests = [Request(c, Sampling(STEPS, seed=SEED + n), asked) for n, c in enumerate(base.conditions)]
    ring = asked.rows()
    for ours, theirs in zip(made, play(base.engine, requests, depth=2, guidance=ring), strict=True):
        assert relative(ours, theirs) < 1e-5
    assert rows == {"full": 5, "interval 0 to 0.5": 4, "initialize": 1, "self": 0}.get(name, 3 if "2" in name else 2)


def test_what_is_kept_of_negatives():
    v, older, newer = (drawn(i, 4, 64) for i in range(3))
    for what, then in (
        ("velocity", v - newer),
        ("difference", 1.5 * v - newer),
        ("line", 1.5 * v - newer + 0.5 * (0.5 * v - newer + older)),
        ("push", 1.5 * v - newer),
    ):
        kept = guidance.Kept(what, v)
        assert torch.equal(kept.difference(v, older, 1.0), v - older)
        assert torch.equal(kept.difference(1.5 * v, newer, 0.8), 1.5 * v - newer)
        torch.testing.assert_close(kept.difference(v, None, 0.7), then)


@pytest.mark.slow
def test_a_window_of_all_of_the_music_is_the_music():
    pieces = Pieces("tiny", 2, SECONDS)
    player = window.Player(pieces)
    whole = player.whole(1.0)
    theirs = play(pieces.engine, [Request(c, Sampling(seed=SEED + n)) for n, c in enumerate(pieces.conditions)])
    for ours, other in zip(whole.music, theirs, strict=True):
        assert relative(ours, other) < 1e-5
    first = window.places(50, 30, 10, 2)
    assert first == [10, 10] and window.places(50, 20, 10, 2) == [12, 18]
    for kind in ("free", "own"):
        part = player.stretch(whole, 1.0, first, 30, 10, kind)
        found = window.compare(pieces, whole.music, part, first, sound=True)
        assert found["latents"] < 1e-4 and found["stft_db"] < 0.01 and found["seam_db"] < 0.01
        assert 0.1 < found["jump"] < 3.0
    part = player.stretch(whole, 1.0, [12, 18], 20, 10, "kept")
    assert window.compare(pieces, whole.music, part, [12, 18], sound=False)["latents"] > 0.01, "the rest is not seen"


def test_distances_are_what_they_say():
    a = 0.1 * drawn(1, 2, 8192)
    assert spectral(a, a) == 0.0 and spectral(2.0 * a, a) == pytest.approx(6.0206, abs=0.01)
    assert relative(1.1 * a, a) == pytest.approx(0.1)
