"""The check of an engine before it plays: what passes, what is refused, and what is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from ostinato.engine_runtime.engines import prove as module
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import Proof, Refused, corners, fill, prove
from ostinato.engine_runtime.trt.play import engine as trt_engine

from ... import trt_stand_in as stand_in

PROFILE = Profile(Span(1, 2, 4), Span(2, 6, 10), Span(1, 16, 40))
ADAPTED = Profile(Span(1, 2, 2), Span(2, 6, 6), Span(1, 16, 16), Span(1, 8, 32))


@pytest.fixture(scope="module")
def eager(base):
    return EagerEngine(base.pipe.transformer, "test")


def test_a_faithful_engine_passes_at_every_corner(eager):
    plan = stand_in.make(eager, PROFILE)
    engine = stand_in.load(plan)
    proof = prove(engine, eager, PROFILE, seed=3)
    assert [(c.name, c.batch, c.frames, c.tokens) for c in proof.corners] == [
        ("minimum", 1, 2, 1), ("optimum", 2, 6, 16), ("maximum", 4, 10, 40)
    ]  # fmt: skip
    assert all(c.relative < 1e-6 and c.peak > 0.1 for c in proof.corners)
    assert {e["shapes"]["hidden_states"] for e in plan.executes} == {(1, 2, 64), (2, 6, 64), (4, 10, 64)}
    assert (proof.engine, proof.reference, proof.gpu) == (engine.identity, eager.identity, "cpu")


def only_at(frames, change):
    return lambda v: change(v) if v.shape[1] == frames else v


def swapped(v):
    return v.flip(0)


BAD = {
    "one corner off": (only_at(10, lambda v: 1.01 * v), "maximum (4 rows, 10 frames, 40 tokens)"),
    "one value off": (only_at(6, lambda v: v.index_put((torch.tensor(0),) * 3, torch.tensor(9.0))), "optimum"),
    "not finite": (only_at(2, lambda v: v / 0), "minimum (1 rows, 2 frames, 1 tokens): values that are not finite"),
    "rows mixed up": (only_at(10, swapped), "maximum"),
    "nothing written": (torch.zeros_like, "minimum"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_engine_that_differs_is_refused_with_its_figures(eager, kind):
    bend, named = BAD[kind]
    plan = stand_in.make(eager, PROFILE)
    plan.bend = bend
    with pytest.raises(Refused) as error:
        prove(stand_in.load(plan), eager, PROFILE, seed=3)
    assert named in str(error.value)
    assert len(error.value.proof.corners) == 3 and not error.value.proof.passed
    assert Proof.of(error.value.proof.as_json()) is None


def test_the_mask_counts(eager):
    """An engine that attends the padding is found out: the conditions have several lengths."""
    plan = stand_in.make(eager, PROFILE)
    engine = stand_in.load(plan)
    plain = eager.__class__.__call__

    def unmasked(rows):
        rows.lengths[:] = rows.encoder_hidden_states.shape[1]
        rows.encoder_attention_mask.fill_(True)
        return plain(eager, rows)

    plan.decoder = type("Blind", (), {"device": eager.device, "targets": None, "__call__": lambda _, r: unmasked(r)})()
    with pytest.raises(Refused):
        prove(engine, eager, PROFILE, seed=3)


@pytest.mark.parametrize("bend", [1.0, 1.3])
def test_adapters_are_proven_with_the_engine(eager, bend, monkeypatch):
    """An engine with their inputs must follow factors of every rank that it takes."""
    plan = stand_in.make(eager, ADAPTED, lora=True)
    if bend != 1.0:  # an engine that takes one kind of factors for stronger than they are
        read = stand_in.rows_of

        def bent(bound, targets):
            return read({**bound, "lora_up_b": bend * bound["lora_up_b"]}, targets)

        monkeypatch.setattr(stand_in, "rows_of", bent)
        with pytest.raises(Refused, match="rank 32"):
            prove(stand_in.load(plan), eager, ADAPTED, seed=3)
        return
    proof = prove(stand_in.load(plan), eager, ADAPTED, seed=3)
    assert [c.rank for c in proof.corners] == [1, 8, 32]


def test_two_precisions_are_held_to_the_coarser_one(base, eager):
    """Any kind of engine: here the eager one in bfloat16, which lies off float32 by its rounding and not by more."""
    import copy

    coarse = EagerEngine(copy.deepcopy(base.pipe.transformer).to(torch.bfloat16), "test")
    proof = prove(coarse, eager, PROFILE, seed=5)
    assert proof.tolerance == module.TOLERANCES[torch.bfloat16]
    assert all(1e-4 < c.relative < proof.tolerance.relative for c in proof.corners)
    assert not replace(proof, dtype="float32").passed


def test_the_same_seed_gives_the_same_rows(eager):
    made = [eager.rows(3, 6, 16) for _ in range(3)]
    for rows, seed in zip(made, (1, 1, 2), strict=True):
        fill((rows,), 3, 6, 16, eager.width, torch.bfloat16, seed)
    one, two, other = made
    for name in ("hidden_states", "encoder_hidden_states", "context_latents", "timestep"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.hidden_states, other.hidden_states)
    assert torch.equal(one.hidden_states, one.hidden_states.bfloat16().float())  # both precisions read the same
    assert one.lengths[0] == 16 and one.lengths[-1] == 1 and one.timestep[0] == 1.0


def test_equal_corners_are_checked_once():
    fixed = Profile(Span(2, 2, 2), Span(6, 6, 6), Span(16, 16, 16))
    assert [name for name, *_ in corners(fixed)] == ["minimum"]


def test_a_proof_counts_on_the_gpu_that_made_it(eager, monkeypatch):
    plan = stand_in.make(eager, PROFILE)
    engine = stand_in.load(plan)
    assert "unverified on this GPU" in engine.summary() and not engine.verified
    proof = prove(engine, eager, PROFILE, seed=3)
    kept = json.loads(json.dumps(proof.as_json(), allow_nan=False))
    assert Proof.of(kept) == proof
    plan.sidecar = replace(plan.sidecar, proof=kept)
    again = stand_in.load(plan)
    assert again.verified and "relative L2" in again.summary()
    monkeypatch.setattr(trt_engine, "gpu_name", lambda device: "another GPU")
    assert not again.verified and "unverified on this GPU" in again.summary()


def test_a_file_does_not_decide_what_passes(eager):
    """Figures that are out of tolerance stay so, whatever else the file says."""
    kept = prove(eager, eager, PROFILE, seed=3).as_json()
    assert Proof.of(kept) is not None
    far = {**kept, "corners": [{**corner, "relative": 0.07} for corner in kept["corners"]]}
    assert Proof.of(far) is None and Proof.of({**far, "dtype": "bfloat16"}) is None
    for more in ({"tolerance": {"relative": 1e9, "peak": 1e9}}, {"dtype": "float8"}, {"dtype": ["float32"]}):
        assert Proof.of({**kept, **more}) is None


@pytest.mark.parametrize("damage", [None, {}, {"corners": []}, {"corners": [{}]}, {"corners": 3}])
def test_a_damaged_proof_is_none(damage):
    assert Proof.of(damage) is None
