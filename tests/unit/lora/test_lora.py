"""Adapters: the files that are understood, what they add, and that a swap is whole."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from ostinato.cli.main import app
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.device.workers import in_turn
from ostinato.engine_runtime.engines.contract import LIMITS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.factors import KINDS, Targets
from ostinato.engine_runtime.errors import InputError, TakeError
from ostinato.engine_runtime.lora.stack import merged, stack
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import Log
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from ...adapters import flat, made_adapter
from ...helpers import StandIn, drawn

CPU = torch.device("cpu")
LANE = Lane(CPU)


@pytest.fixture(scope="module")
def transformer(turbo):
    return turbo.pipe.transformer


@pytest.fixture(scope="module")
def targets(transformer):
    return Targets.of(transformer)


@pytest.fixture(scope="module")
def engine(transformer):
    return EagerEngine(transformer, "lora-test", LIMITS)


def rows_of(engine, batch=3, frames=26, tokens=9, seed=0):
    rows = engine.rows(batch, frames, tokens)
    for i in range(batch):
        own = tokens - 2 * i
        rows.write(i, drawn(seed + i, own, engine.width), drawn(seed + 10 + i, frames, 128))
    rows.hidden_states.copy_(drawn(seed + 20, *rows.hidden_states.shape))
    rows.timestep.copy_(torch.linspace(0.2, 0.9, batch))
    return rows


def with_lora(engine, mix, rows=None, before=None):
    rows = rows_of(engine) if rows is None else rows
    factors = stack(mix, engine.targets, engine.dtype, engine.device, LANE, before)
    return engine(rows.adapted(factors)).clone()


def with_merged(transformer, mix):
    other = copy.deepcopy(transformer)
    missing = other.load_state_dict(merged(transformer.state_dict(), mix, Targets.of(transformer)), strict=False)
    assert not missing.unexpected_keys
    engine = EagerEngine(other, "merged", LIMITS)
    return engine(rows_of(engine)).clone()


MIXES = {
    "rank 1": [(1, 1.0)],
    "rank 8": [(8, 1.0)],
    "rank 32": [(32, 0.7)],
    "rank 3 in a bucket of 8, backwards": [(3, -0.5)],
    "three": [(4, 1.0), (8, -0.5), (3, 2.0)],
    "three, a full bucket": [(16, 0.3), (8, 1.0), (8, 0.9)],
}


@pytest.mark.parametrize("name", MIXES)
def test_factors_equal_merged_weights(engine, transformer, targets, tmp_path, name):
    mix = [(made_adapter(tmp_path, targets, rank, seed=i), s) for i, (rank, s) in enumerate(MIXES[name])]
    got, want, plain = with_lora(engine, mix), with_merged(transformer, mix), engine(rows_of(engine))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert (want - plain).abs().max() > 0.05, "the adapters must be heard"


def test_alpha_is_in_the_factors_and_in_the_merged_weights(engine, transformer, targets, tmp_path):
    """Alpha 2 at rank 4 is half of the adapter without one."""
    whole, half = (made_adapter(tmp_path, targets, 4, name=flat("lora_unet_"), alpha=a) for a in (4.0, 2.0))
    got = with_lora(engine, [(half, 1.0)])
    torch.testing.assert_close(got, with_lora(engine, [(whole, 0.5)]), atol=1e-5, rtol=0)
    torch.testing.assert_close(got, with_merged(transformer, [(half, 1.0)]), atol=1e-5, rtol=0)
    assert not torch.allclose(got, with_lora(engine, [(whole, 1.0)]), atol=1e-2)


def test_each_kind_by_itself_and_half_the_layers(engine, transformer, targets, tmp_path):
    """A file may hold any part: every kind lands in its own layer."""
    plain = engine(rows_of(engine))
    for kind in KINDS:
        mix = [(made_adapter(tmp_path, targets, 4, kinds=(kind,), layers=(1,)), 1.0)]
        got = with_lora(engine, mix)
        torch.testing.assert_close(got, with_merged(transformer, mix), atol=1e-5, rtol=0)
        assert not torch.equal(got, plain), kind


def test_a_b_a_is_bit_equal_and_so_is_none_none(engine, targets, tmp_path):
    one = [(made_adapter(tmp_path, targets, 8, seed=1), 1.0)]
    two = [(made_adapter(tmp_path, targets, 32, seed=2), -0.6), *one]
    plain, first = engine(rows_of(engine)).clone(), with_lora(engine, one)
    second = with_lora(engine, two)
    assert not torch.equal(first, second)
    assert torch.equal(with_lora(engine, one), first)
    assert torch.equal(with_lora(engine, two), second)
    assert torch.equal(engine(rows_of(engine)), plain)


class Ops(TorchDispatchMode):
    """Names of all operations inside, in their order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_adapter_adds_no_operation(engine, targets, tmp_path):
    """Neither without factors, nor with none stacked, nor at strength 0; and a used one adds two a layer."""
    rows = rows_of(engine, batch=1)
    adapter = made_adapter(tmp_path, targets, 8, kinds=("self_q", "down"))
    engine(rows)  # the tables are kept from here on

    def ran(lora):
        with in_turn(), Ops() as ops:
            velocity = engine(rows.adapted(lora))
        return velocity, ops.names

    plain, names = ran(None)
    for mix in ([], [(adapter, 0.0)]):
        same, theirs = ran(stack(mix, targets, engine.dtype, CPU, LANE))
        assert torch.equal(same, plain) and theirs == names
    _, more = ran(stack([(adapter, 1.0)], targets, engine.dtype, CPU, LANE))
    assert more.count("aten.addmm_.default") == 2 * targets.layers
    products = sum("mm" in name for name in more) - sum("mm" in name for name in names)
    assert products == 2 * 2 * targets.layers, "kinds that no adapter changes cost nothing"


def test_strength_is_linear_and_zero_changes_nothing(engine, targets, tmp_path):
    """Zero beside another adapter is that adapter alone, and one adapter twice is the sum of its strengths."""
    one, two = (made_adapter(tmp_path, targets, 8, seed=i) for i in range(2))
    alone, beside = with_lora(engine, [(one, 0.8)]), with_lora(engine, [(one, 0.8), (two, 0.0)])
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)
    split = with_lora(engine, [(one, 0.3), (one, 0.5)])
    torch.testing.assert_close(split, alone, atol=1e-5, rtol=0)


def test_another_strength_keeps_a_and_gives_the_same(targets, tmp_path):
    one, two = (made_adapter(tmp_path, targets, 8, seed=i) for i in range(2))
    first = stack([(one, 0.8)], targets, torch.float32, CPU, LANE)
    turned = stack([(one, 0.3)], targets, torch.float32, CPU, LANE, first)
    fresh = stack([(one, 0.3)], targets, torch.float32, CPU, LANE)
    assert all(turned.a[k] is first.a[k] for k in KINDS)
    assert all(torch.equal(turned.b[k], fresh.b[k]) and torch.equal(turned.a[k], fresh.a[k]) for k in KINDS)
    other = stack([(two, 0.3)], targets, torch.float32, CPU, LANE, first)
    assert not torch.equal(other.a["up"], first.a["up"]), "another adapter's A is its own"


@pytest.mark.parametrize(
    ("ranks", "rank"), [((), 1), ((1,), 8), ((8,), 8), ((8, 1), 32), ((33,), 128), ((64, 64), 128)]
)
def test_ranks_are_padded_to_buckets(targets, tmp_path, ranks, rank):
    mix = [(made_adapter(tmp_path, targets, r, kinds=("gate",), seed=r), 1.0) for r in ranks]
    factors = stack(mix, targets, torch.bfloat16, CPU, LANE)
    assert factors.rank == rank and factors.silent is not bool(ranks)
    expected = {}
    for kind, (width_in, width_out) in targets.kinds.items():
        expected[f"lora_{kind}_a"] = (targets.layers, rank, width_in)
        expected[f"lora_{kind}_b"] = (targets.layers, width_out, rank)
    given = factors.inputs()
    assert {name: tuple(t.shape) for name, t in given.items()} == expected
    assert all(t.is_contiguous() and t.dtype == torch.bfloat16 for t in given.values())
    zeros = {name for name, t in given.items() if not t.any()}
    assert zeros == {n for n in expected if not (ranks and n.startswith("lora_gate_"))}


def test_too_much_rank_and_bad_strengths_are_refused(targets, base, tmp_path):
    big, small = made_adapter(tmp_path, targets, 120, kinds=("up",)), made_adapter(tmp_path, targets, 9, kinds=("up",))
    with pytest.raises(InputError, match="rank 129 together.*at most 128.*fewer adapters"):
        stack([(big, 1.0), (small, 1.0)], targets, torch.float32, CPU, LANE)
    for strength in (float("nan"), float("inf"), 11.0):
        with pytest.raises(InputError, match="strength of .* is "):
            stack([(small, strength)], targets, torch.float32, CPU, LANE)
    wide = Targets(targets.layers, {**targets.kinds, "up": (128, 999)})
    with pytest.raises(InputError, match="read for"):
        stack([(small, 1.0)], wide, torch.float32, CPU, LANE)
    factors = stack([(small, 1.0)], targets, torch.bfloat16, CPU, LANE)
    factors.check(targets, torch.bfloat16, CPU)
    for wanted in ((None, torch.bfloat16), (wide, torch.bfloat16), (targets, torch.float32)):
        with pytest.raises(InputError, match="adapters"):
            factors.check(*wanted, CPU)


# --- one engine, several players -------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_company(engine, targets, tmp_path):
    """Bit for bit with adapters too; parts of the rows have them as well."""
    factors = stack([(made_adapter(tmp_path, targets, 8), 1.0)], targets, engine.dtype, CPU, LANE)
    rows, others = rows_of(engine, seed=3).adapted(factors), rows_of(engine, seed=50).adapted(factors)
    want = engine(rows)[1].clone()
    others.take(1, rows, 1)
    others.hidden_states[1], others.timestep[1] = rows.hidden_states[1], rows.timestep[1]
    assert torch.equal(engine(others)[1], want)
    assert torch.equal(engine(rows.part(1, 2))[0], want)


def test_players_of_one_engine_do_not_mix(engine, targets, tmp_path):
    """Three threads, each with adapters of its own or none, on the very same decoder at the same time."""
    mixes = [[], *([(made_adapter(tmp_path, targets, 8, seed=i), 1.0)] for i in range(2))]
    want = [with_lora(engine, mix) for mix in mixes]
    wrong, start = [], threading.Barrier(len(mixes))

    def play(i):
        rows = rows_of(engine)
        start.wait()
        for _ in range(5):
            if not torch.equal(with_lora(engine, mixes[i], rows), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=play, args=(i,)) for i in range(len(mixes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_weights_that_are_put_in_place_later_are_the_ones_played(transformer, targets, tmp_path):
    """A host that manages memory swaps parameters, and moves modules to another precision."""
    other = copy.deepcopy(transformer)
    engine, mix = EagerEngine(other, "swapped", LIMITS), [(made_adapter(tmp_path, targets, 4), 1.0)]
    before = with_lora(engine, mix)
    layer = other.layers[1].self_attn
    layer.to_q.weight = torch.nn.Parameter(layer.to_q.weight.flip(0), requires_grad=False)
    after = with_lora(engine, mix)
    assert not torch.equal(before, after)
    fresh = EagerEngine(other, "fresh", LIMITS)
    assert torch.equal(with_lora(fresh, mix), after)


def test_the_model_itself_is_left_alone(transformer, engine, targets, tmp_path):
    names = [*transformer.state_dict()], [type(m) for m in transformer.modules()]
    with_lora(engine, [(made_adapter(tmp_path, targets, 4), 1.0)])
    assert ([*transformer.state_dict()], [type(m) for m in transformer.modules()]) == names
    assert len([*engine.decoder.parameters()]) == len([*transformer.parameters()]), "no parameter twice"


# --- sessions --------------------------------------------------------------------------------------------------------


def stacked(engine, *mix):
    return stack(mix, engine.targets, engine.dtype, engine.device, LANE)


def steps_of(engine, name, known, swaps, seed=5, depth=2, steps=6):
    """Latents of two requests; `swaps` says which factors come before which step."""
    config = StreamConfig(depth=depth, guidance="full", tokens=64, spread=False)
    requests = [Request(known[i], Sampling(steps, seed=seed + i), Guidance(5.0)) for i in range(2)]
    with runtime().playing(name, engine, config) as session:
        for request in requests:
            session.submit(request)
        done = {}
        for i in range(steps):
            if i in swaps:
                session.adapt(swaps[i])
            done |= {id(f.request): f.take() for f in session.step()}
            yield
    yield [done[id(request)] for request in requests]


def finish(player):
    return [given for given in player if given is not None][0]


def test_an_adapter_is_heard_from_the_next_tick_on(base, conditions, tmp_path):
    """In flight: equal to merged weights from that step on, and swapped as often as one likes, to the same bits."""
    engine, known = eager_engine(base), conditions(base, 7, 2)
    adapter = made_adapter(tmp_path, engine.targets, 8)
    on, off = stacked(engine, (adapter, 1.0)), stacked(engine)
    plain, always = finish(steps_of(engine, "a", known, {})), finish(steps_of(engine, "b", known, {0: on}))
    late, again = (finish(steps_of(engine, n, known, {3: on})) for n in "cd")
    back = finish(steps_of(engine, "e", known, {0: on, 1: None, 2: on, 3: off}))
    assert all(torch.equal(*pair) for pair in zip(late, again, strict=True))
    different = [plain, always, late, back]
    assert not any(torch.equal(a[0], b[0]) for i, a in enumerate(different) for b in different[:i])
    merged_model = copy.deepcopy(base.pipe.transformer)
    merged_model.load_state_dict(merged(merged_model.state_dict(), [(adapter, 1.0)], engine.targets), strict=False)
    want = finish(steps_of(EagerEngine(merged_model, "merged", LIMITS), "f", known, {}))
    for got, expected in zip(always, want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_sessions_of_one_engine_do_not_mix(base, conditions, tmp_path):
    """Their steps run in turn on the very same engine; each plays as if it were alone."""
    engine, known = eager_engine(base), conditions(base, 7, 2)
    swaps = [{}, *({0: stacked(engine, (made_adapter(tmp_path, engine.targets, 8, seed=i), 1.0))} for i in range(2))]
    swaps.append({2: swaps[1][0], 4: swaps[2][0]})
    alone = [finish(steps_of(engine, f"alone {i}", known, s)) for i, s in enumerate(swaps)]
    players = [steps_of(engine, f"together {i}", known, s) for i, s in enumerate(swaps)]
    together = [[g for g in given if g is not None][0] for given in zip(*zip(*players, strict=True), strict=True)]
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_ring_that_is_built_anew_keeps_its_adapter(base, conditions, tmp_path):
    """Through another depth, another length and an empty ring."""
    engine = eager_engine(base)
    on = stacked(engine, (made_adapter(tmp_path, engine.targets, 8), 1.0))

    def one(session, frames):
        session.submit(Request(conditions(base, frames, 1)[0], Sampling(3, seed=1)))
        return [f.take() for f in session.play([])][0]

    def opened(name):
        return runtime().playing(name, engine, StreamConfig(depth=1, tokens=64, spread=False))

    with opened("fresh 7") as session:
        session.adapt(on)
        seven = one(session, 7)
    with opened("through") as session:
        session.adapt(on)
        one(session, 12)
        session.configure(depth=3)
        assert torch.equal(one(session, 7), seven)
        session.adapt(None)
        assert not torch.equal(one(session, 7), seven)


def test_a_session_refuses_factors_that_do_not_fit(base, tmp_path):
    engine = eager_engine(base)
    adapter = made_adapter(tmp_path, engine.targets, 8)
    wrong = stack([(adapter, 1.0)], engine.targets, torch.bfloat16, CPU, LANE)
    with runtime().playing("refusal", engine, StreamConfig()) as session:
        with pytest.raises(InputError, match="stack the adapters for this engine"):
            session.adapt(wrong)
    with runtime().playing("none", StandIn(), StreamConfig()) as session:
        with pytest.raises(InputError, match="takes none"):
            session.adapt(stacked(engine, (adapter, 1.0)))


def test_a_take_names_its_adapters_and_plays_again_with_them(base, conditions, tmp_path):
    """In memory and from the command line, to the bit; without the file it is refused by the adapter's name."""
    engine, known = eager_engine(base), conditions(base, 7, 2)
    adapter = made_adapter(tmp_path, engine.targets, 8)
    file = next(tmp_path.glob("*.safetensors"))
    config = StreamConfig(depth=2, guidance="full", tokens=64, spread=False)
    log = Log.of(engine, config)
    swaps = {0: [(adapter, 1.0)], 2: [(adapter, -0.4)], 4: []}
    with runtime().playing("take", engine, config, log=log) as session:
        for i in range(2):
            session.submit(Request(known[i], Sampling(6, seed=i), Guidance(5.0)))
        done = []
        for i in range(6):
            if i in swaps:
                session.adapt(stacked(engine, *swaps[i]))
            done += [f.take() for f in session.step()]
        log.finished(done)
    assert [event.tick for event in log.events if event.kind == "adapted"] == [0, 2, 4]
    path = tmp_path / "take.safetensors"
    log.save(path)
    again = Log.load(path)
    played = replay(again, engine, adapters=[adapter])
    assert len(played.latents) == 2 and not played.differing
    with pytest.raises(TakeError, match=f"adapters {adapter.name}"):
        replay(again, engine)
    command = ["replay", str(path), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, command).exit_code != 0
    given = CliRunner().invoke(app, [*command, "--lora", str(file)])
    assert given.exit_code == 0 and "all 2 of the take are bit-identical" in given.output, given.output


def test_more_rank_than_the_engine_takes_is_refused_before_a_tick(base, tmp_path):
    engine = eager_engine(base)
    engine.limits = replace(engine.limits, rank=8)
    with runtime().playing("rank", engine, StreamConfig()) as session:
        session.adapt(stacked(engine, (made_adapter(tmp_path, engine.targets, 8), 1.0)))
        with pytest.raises(InputError, match="rank 32 together"):
            session.adapt(stacked(engine, (made_adapter(tmp_path, engine.targets, 9), 1.0)))
