"""Knobs set while music plays: when they act, what a neutral one costs, and that no tick reads the device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.knobs import KNOBS, Knobs
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.device.workers import in_turn
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.stream.request import Part, Request, Target
from torch.profiler import ProfilerActivity, profile

from ...fuzz import examples
from ...helpers import StandIn, apart, drawn, made_up, no_reads
from ...live import FEATURES, draft, everything, perform, rows

T = 7
LIVELY = {
    "velocity_scale": 0.9,
    "ode_noise": 0.2,
    "sde": 0.8,
    "guidance_scale": 2.0,
    "momentum": -0.5,
    "rescale": 0.2,
    "target_strength": 0.3,
    "channel_gain": 1.1,
    "blend": 0.4,
    "dcw": True,
    "dcw_low": 0.2,
    "dcw_high": 0.1,
}
CHANGED = {
    "velocity_scale": 0.7,
    "ode_noise": 0.6,
    "sde": 0.3,
    "guidance_scale": 4.0,
    "momentum": 0.3,
    "rescale": 0.8,
    "target_strength": 0.7,
    "channel_gain": 0.7,
    "blend": 0.7,
    "dcw": False,
    "dcw_mode": "high",
    "dcw_low": 0.5,
    "dcw_high": -0.3,
    "dcw_wavelet": "db2",
}
assert CHANGED.keys() == KNOBS.keys()


def session_of(engine=None, knobs=None, **config):
    engine = engine or StandIn(Limits(64, 4096, 1024))
    return apart("hot", engine, StreamConfig(queue=64, **config), Lane(engine.device), knobs or Knobs())


def changes():
    for name, knob in KNOBS.items():
        yield pytest.param({name: CHANGED[name]}, id=name)
        if knob.takes_curve:
            yield pytest.param({name: torch.linspace(LIVELY[name], CHANGED[name], T)}, id=f"{name}-curve")


@pytest.mark.parametrize("change", list(changes()))
def test_a_change_is_of_the_very_next_tick(change):
    """For one tick, the third, under all other controls; whoever it is not for, or is out by then, keeps every bit."""
    (name,) = change
    requests = [
        everything(1, T, steps=2),
        everything(2, T, "full", steps=5),
        everything(3, T, "initialize", steps=5, solver="sde"),
        everything(4, T, "self", steps=6),
    ]
    affected = [False, name != "sde", name != "ode_noise", name != "sde"]
    config = {"depth": 4, "spread": False, **rows(requests)}
    back = {name: getattr(Knobs(**LIVELY), name)}
    unmoved = perform(session_of(knobs=Knobs(**LIVELY), **config), requests, {})
    moved = perform(session_of(knobs=Knobs(**LIVELY), **config), requests, {2: change, 3: back})
    moved.agrees(requests)
    differ = [(a - b).abs().max() > 4e-4 for a, b in zip(unmoved.latents, moved.latents, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(unmoved.latents, moved.latents, strict=True)]
    assert differ == affected and same == [not changed for changed in affected]


def test_a_change_and_back_between_ticks_is_nothing():
    requests = [everything(i, T, steps=3) for i in range(2)]
    config = {"depth": 2, "spread": False, **rows(requests)}
    unmoved = perform(session_of(knobs=Knobs(**LIVELY), **config), requests, {})
    session, out = session_of(knobs=Knobs(**LIVELY), **config), []
    for one in requests:
        session.submit(one)
    while not session.idle:
        session.set(**CHANGED)
        session.set(**{"dcw_mode": "double", "dcw_wavelet": "haar", **LIVELY})
        out += session.step()
    assert all(torch.equal(a.take(), b) for a, b in zip(out, unmoved.latents, strict=True))


@pytest.mark.parametrize(
    "change", [{"volume": 1.0}, {"velocity_scale": 5.0}, {"dcw": 1.0}, {"ode_noise": torch.full((T,), torch.nan)}]
)
def test_a_refused_change_changes_nothing(change):
    session = session_of(knobs=Knobs(**LIVELY))
    before = session.knobs
    with pytest.raises(InputError):
        session.set(momentum=0.1, **change)
    assert session.knobs is before


@st.composite
def concerts(draw):
    """Requests of one length, knobs to begin with, and changes of them and of the depth before some ticks."""
    random, frames = draw(st.randoms(use_true_random=False)), draw(st.sampled_from([1, 2, 7, 8, 25]))

    def some():
        return draft(random, frames, random.sample(list(FEATURES), random.randint(1, 3)))

    requests = [some().made() for _ in range(draw(st.integers(1, 5)))]
    ticks = draw(st.lists(st.integers(0, 12), max_size=6, unique=True))
    depths = draw(st.dictionaries(st.integers(0, 12), st.integers(1, 8), max_size=3))
    moves = {tick: some().knobs for tick in ticks}
    moves.update((tick, {**moves.get(tick, {}), "depth": depth}) for tick, depth in depths.items())
    return requests, Knobs(**some().knobs), moves


@settings(max_examples=examples(60))
@given(concerts(), st.integers(1, 5), st.booleans())
def test_moved_at_any_tick(concert, depth, spread):
    requests, knobs, moves = concert
    session = session_of(knobs=knobs, depth=depth, spread=spread, **rows(requests))
    perform(session, requests, moves).agrees(requests)


def test_guidance_is_switched_on_where_there_are_rows():
    """A ring that opened without them gets them for requests to come, and says so for those that play."""
    session, quiet = session_of(guidance="off", spread=False), [asked(guidance=Guidance(1.0)) for _ in range(3)]
    session.submit(quiet[0])
    session.step()
    with pytest.raises(InputError, match="without the negative rows"):
        session.set(guidance_scale=3.0)
    rest = list(session.play([]))[0].take()
    assert torch.equal(rest, perform(session_of(), [quiet[1]], {}).latents[0])
    perform(session, [quiet[2]], {0: {"guidance_scale": 3.0}}).agrees([quiet[2]])


def test_the_noise_of_a_step_by_hand():
    """To the source and its noise by the first step, and from there by the decoder in one."""
    c, source, seed = made_up(1, T), drawn(2, T, 64), 2**63 + 5
    g = torch.Generator().manual_seed((seed * 1_000_003 + 1) % 2**63)
    between = 0.25 * torch.randn(T, 64, generator=g) + 0.75 * source
    request = Request(c, Sampling(solver="sde", seed=seed), source=source, schedule=(0.5, 0.25, 0.0))
    got = perform(session_of(), [request], {0: {"sde": 0.0}, 1: {"sde": 1.0}}).latents[0]
    rest = Request(c, source=between, initial_noise=0.0, schedule=(0.25, 0.0))
    torch.testing.assert_close(got, perform(session_of(), [rest], {}).latents[0])


class Reader(StandIn):
    """An engine that looks at its own result by a function."""

    def __init__(self, limits, look=lambda v: None):
        super().__init__(limits)
        self.look = look

    def __call__(self, given):
        v = super().__call__(given)
        self.look(v.sum())
        return v


def watched(engine, **config):
    """A session of all controls, each step of which may read nothing, admissions among them."""
    requests = [everything(i, T, mode, steps=3 + i, solver=("ode", "sde")[i % 2]) for i, mode in enumerate(MODES * 2)]
    session = session_of(engine, Knobs(**LIVELY), depth=3, **{**rows(requests), **config})
    for one in requests:
        session.submit(one)
    out = []
    for change in changes() if not isinstance(engine, Reader) else ():
        session.set(**change.values[0])
        with no_reads():
            out += session.step()
    while not session.idle:
        with no_reads():
            out += session.step()
    return out


MODES = ("full", "initialize", "self", "off")


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("width", [64, 3], ids=["fused", "narrow"])
def test_no_step_reads_the_device(width, spread):
    out = watched(StandIn(Limits(width, 4096, 1024)), spread=spread)
    assert len(out) == 8 and all(finished.take().isfinite().all() for finished in out)


READS = [
    *(lambda t: t.item(), bool, float, int, lambda t: t.tolist(), lambda t: t.cpu(), lambda t: t.numpy()),
    lambda t: t.view(1)[t.view(1) > -1],
    lambda t: torch.ops.aten._local_scalar_dense(t),
]


@pytest.mark.parametrize("read", READS)
def test_the_trap_catches_a_read(read):
    with pytest.raises(AssertionError, match="the tick"):
        watched(Reader(Limits(64, 4096, 1024), read))


ONES, ZEROS = torch.ones(T), torch.zeros(T)
C = made_up(1, T)
SOURCE, KEEP = drawn(2, T, 64), drawn(3, T, 64).sigmoid()
DCW = {"dcw": True, "dcw_low": 0.0, "dcw_high": 0.0}


def asked(**fields):
    fields = {"sampling": Sampling(6, solver=fields.pop("solver", "ode")), "source": SOURCE, **fields}
    return Request(fields.pop("condition", C), **fields)


def guided(scale, mode="full"):
    return asked(guidance=Guidance(scale, rescale=0.0, mode=mode))


def neutral():
    """Name; request and knobs with a feature at its neutral value, without the feature, and with it set."""
    plain, off = asked(), Knobs()
    for name, values, other in (
        ("velocity_scale", (1.0, ONES), 0.9),
        ("ode_noise", (0.0, ZEROS), 0.1),
        ("channel_gain", (1.0, ONES, torch.ones(64), torch.ones(T, 64)), 0.9),
    ):
        for value in values:
            yield name, (plain, Knobs(**{name: value})), (plain, off), (plain, Knobs(**{name: other}))
    for value in (1.0, ONES):
        sde = asked(solver="sde")
        yield "sde", (sde, Knobs(sde=value)), (sde, off), (sde, Knobs(sde=0.9))
    for value in (0.0, ZEROS):
        aim = asked(target=Target(SOURCE))
        yield "target", (aim, Knobs(target_strength=value)), (plain, off), (aim, Knobs(target_strength=0.1))
        dcw = {"dcw": True, "dcw_low": value, "dcw_high": value}
        for mode, other in (("double", {}), ("low", {"dcw_high": 0.3}), ("high", {"dcw_low": 0.3}), ("pix", {})):
            at_rest = Knobs(**{**dcw, "dcw_mode": mode, **other})
            yield f"dcw_{mode}", (plain, at_rest), (plain, off), (plain, Knobs(dcw=True, dcw_mode=mode))
    yield "dcw off", (plain, Knobs(dcw_low=0.5, dcw_high=0.5)), (plain, off), (plain, Knobs(dcw=True))
    masked = asked(mask=KEEP), off
    yield "mask", (asked(mask=torch.ones(T, 64)), off), (plain, off), masked
    yield "strength", (asked(mask=KEEP, mask_strength=(0.0, 0.0)), off), (plain, off), masked
    yield "parts", (asked(condition=(Part(C, 0.3),)), off), (plain, off), None
    yield "blend", (plain, Knobs(blend=0.3)), (plain, off), None
    for mode in MODES[:3]:
        on = guided(3.0, mode), off
        for value in (1.0, ONES):
            yield f"scale-{mode}", (guided(value, mode), off), (plain, off), on
            yield f"hot-scale-{mode}", (guided(3.0, mode), Knobs(guidance_scale=value)), (plain, off), on
        for value in (0.0, ZEROS):
            yield f"rescale-{mode}", (guided(3.0, mode), Knobs(rescale=value)), on, (on[0], Knobs(rescale=0.1))


def played(request, knobs):
    """The latent, and what the third tick ran, in order, as the profiler saw it."""
    session = session_of(knobs=knobs, depth=2, spread=False, guidance="full")
    session.submit(request)
    for _ in range(2):
        session.step()
    with in_turn(), profile(activities=[ProfilerActivity.CPU]) as prof:
        session.step()
    ran = sorted((e for e in prof.events() if e.name.startswith("aten::")), key=lambda e: e.time_range.start)
    return next(session.play([])).take(), [e.name for e in ran]


@pytest.mark.parametrize(("at_rest", "without", "moved"), [pytest.param(*case, id=name) for name, *case in neutral()])
def test_neutral_is_exact_and_free(at_rest, without, moved):
    (a, ran_a), (b, ran_b) = played(*at_rest), played(*without)
    assert torch.equal(a, b) and ran_a == ran_b
    if moved is not None:
        c, ran_c = played(*moved)
        assert not torch.equal(a, c) and len(ran_c) > len(ran_a)


def test_initial_noise_of_one_starts_from_noise():
    a, b = (perform(session_of(), [one], {}).latents[0] for one in (asked(initial_noise=ONES), asked()))
    assert torch.equal(a, b)


def test_a_neutral_neighbour_costs_another_nothing():
    """What is off for a slot changes no bit of it where the tick runs for the other."""
    loud = asked(guidance=Guidance(5.0), mask=KEEP, target=Target(SOURCE), solver="sde")
    quiet, knobs = asked(guidance=NO_GUIDANCE), Knobs(target_strength=0.5, sde=0.5)
    together = perform(session_of(knobs=knobs, depth=2, spread=False, guidance="full"), [loud, quiet], {}).latents[1]
    alone = perform(session_of(knobs=knobs, depth=2, spread=False, guidance="full"), [quiet], {}).latents[0]
    assert torch.equal(together, alone)


def test_a_knob_that_is_let_go_gives_the_requests_own_value_back():
    requests = [Request(made_up(i, T), Sampling(6, seed=i), Guidance(2.0 + i, momentum=-0.5)) for i in range(2)]
    moves = {1: {"guidance_scale": 5.0, "momentum": 0.2}, 3: {"guidance_scale": None, "momentum": None}}
    perform(session_of(depth=2, spread=False, **rows(requests)), requests, moves).agrees(requests)
