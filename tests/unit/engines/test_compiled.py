"""The restructured decoder on the CPU: the reference's numbers, rows that keep a condition's keys, shared weights."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.compiled.adapters import EightBits, Resident
from ostinato.engine_runtime.engines.compiled.engine import CompiledEngine
from ostinato.engine_runtime.engines.compiled.plain import FP8, INT8, NARROW
from ostinato.engine_runtime.engines.compiled.weights import ALIGNED, PRODUCTS, Narrow, bind, places
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.factors import BUCKETS, PLACES
from ostinato.engine_runtime.engines.prove import fill
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.lora.stack import merged, stack
from ostinato.engine_runtime.models.sized import sized_decoder
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime

from ...adapters import made_adapter
from ...helpers import drawn, play

CPU = torch.device("cpu")
LANE = Lane(CPU)
CLOSE = 1e-5  # in float32, from the reference
MOST = {FP8: 0.06, INT8: 0.02}  # relative L2 from it


@pytest.fixture(scope="module")
def engine(transformer):
    return CompiledEngine(copy.deepcopy(transformer), "unit-test")


@pytest.fixture(scope="module", params=NARROW)
def all_in(request):
    """The choice of all products, in each dtype of 8 bits."""
    return Narrow(NARROW[request.param])


@pytest.fixture(scope="module")
def narrow(transformer, all_in):
    return CompiledEngine(copy.deepcopy(transformer), "unit-test", narrow=all_in)


def rows_of(engine, batch=3, frames=41, tokens=9, seed=0):
    rows = engine.rows(batch, frames, tokens)
    for i in range(batch):
        own = max(1, tokens - 4 * i)
        rows.write(i, drawn(seed + i, own, engine.width), drawn(seed + 10 + i, frames, 128))
    rows.hidden_states.copy_(drawn(seed + 20, *rows.hidden_states.shape))
    rows.timestep.copy_(torch.linspace(1.0, 0.2, batch))
    return rows


def factors(engine, mix, before=None):
    return stack(mix, engine.targets, engine.dtype, engine.device, LANE, before)


def relative(got, want):
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 41, 9), (4, 76, 17), (2, 150, 64)])
def test_it_is_the_reference(transformer, engine, shape):
    want = EagerEngine(transformer, "unit-test")
    torch.testing.assert_close(engine(rows_of(engine, *shape)), want(rows_of(want, *shape)), atol=CLOSE, rtol=0)


def test_a_row_nobody_wrote_is_the_reference_too(transformer, engine):
    want = EagerEngine(transformer, "unit-test")
    torch.testing.assert_close(engine(engine.rows(2, 10, 4)), want(want.rows(2, 10, 4)), atol=CLOSE, rtol=0)


def test_products_in_8_bits_are_near(transformer, narrow):
    want = EagerEngine(transformer, "unit-test")
    assert 1e-3 < relative(narrow(rows_of(narrow)), want(rows_of(want))) < MOST[narrow.products]


@pytest.mark.parametrize("product", PRODUCTS)
def test_any_product_may_stay_wide(transformer, all_in, narrow, product, tmp_path):
    """Its neighbours are in 8 bits, and adapters act on both."""
    layers = range(len(transformer.layers))
    made = [
        CompiledEngine(copy.deepcopy(transformer), "unit-test", narrow=replace(all_in, wide=frozenset(wide)))
        for wide in (
            [(i, product) for i in layers],
            [(i, name) for i in layers for name in PRODUCTS if name != product],
        )
    ]
    engines = [EagerEngine(transformer, "unit-test"), narrow, *made]
    for mix in ([], [(made_adapter(tmp_path, narrow.targets, 4), 0.7)]):
        rows = [rows_of(e).adapted(factors(e, mix)) if mix else rows_of(e) for e in engines]
        want, *velocities = (e(r) for e, r in zip(engines, rows, strict=True))
        whole, but_one, only_one = (relative(velocity, want) for velocity in velocities)
        assert 0.0 < only_one < whole and but_one < 1.05 * whole
    assert len({engine.identity for engine in engines[1:]}) == 3


def test_planted_outliers_are_as_large_as_they_say():
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = sized_decoder("2b-outliers", torch.float32, CPU, num_hidden_layers=12, **sizes)
    peaks = []
    for layer in model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, given: peaks.append(given[0].abs().amax((0, 1))))
    engine = EagerEngine(model, "unit-test")
    rows = engine.rows(1, 100, 8)
    fill((rows,), 1, 100, 8, engine.width, engine.dtype, 0)
    engine(rows)
    ratios = [(peak.sort().values[-4] / peak.median()).item() for peak in peaks]  # of the fourth largest channel
    assert [i for i, ratio in enumerate(ratios) if ratio > 100] == list(range(3, 11)) and max(ratios) < 2000


def test_it_plays_what_eager_plays(transformer, engine, base, conditions):
    requests = [
        Request(condition, Sampling(3 + i, seed=i), Guidance(1.0 + 2 * i))
        for i, condition in enumerate(conditions(base, 25, 3))
    ]
    config = {"depth": 2, "guidance": "full"}
    for got, want in zip(
        play(engine, requests, **config), play(EagerEngine(transformer, "unit-test"), requests, **config), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_kinds_change_while_music_plays(engine, narrow, base, conditions):
    """What is in flight plays on, near to what one kind makes of it."""
    requests = [Request(condition, Sampling(6, seed=i)) for i, condition in enumerate(conditions(base, 25, 3))]

    def played(swaps):
        ticks = itertools.count()
        with runtime().playing("kinds", engine, StreamConfig(3, tokens=64, spread=False)) as session:

            def before():
                other = swaps.get(next(ticks))
                if other is not None:
                    session.stage.swap(other)

            done = {id(f.request): f.take() for f in session.play(requests, before)}
            return torch.stack([done[id(request)] for request in requests]), session.engine

    (want, _), (got, last) = played({}), played({2: narrow, 4: engine})
    assert last is engine and 0 < relative(got, want) < MOST[narrow.products]


def test_what_was_in_a_row_before_does_not_matter(engine):
    rows, fresh = rows_of(engine, seed=5), engine.rows(3, 41, 9)
    rows.keys_values.fill_(3.0)  # beyond a condition's own tokens nothing is read
    for target in (rows, fresh):
        for i in range(3):
            target.write(i, drawn(i, 9 - 4 * i, engine.width), drawn(10 + i, 41, 128))
        target.hidden_states.copy_(drawn(20, *target.hidden_states.shape))
        target.timestep.fill_(0.5)
    assert torch.equal(engine(rows), engine(fresh))


def test_a_condition_is_taken_over_with_its_keys(engine):
    rows, other = rows_of(engine), rows_of(engine, seed=5)
    other.take(1, rows, 2)
    other.hidden_states[1], other.timestep[1] = rows.hidden_states[2], rows.timestep[2]
    torch.testing.assert_close(engine(other)[1], engine(rows)[2], atol=CLOSE, rtol=0)


def test_a_part_is_a_view(engine):
    rows = rows_of(engine)
    part = rows.part(1, 3)
    want = engine(rows)[1:]
    torch.testing.assert_close(engine(part), want, atol=CLOSE, rtol=0)
    part.write(0, drawn(7, 3, engine.width), drawn(8, 41, 128))
    torch.testing.assert_close(engine(rows)[1:], engine(part), atol=CLOSE, rtol=0)
    assert not torch.equal(engine(part), want)


@pytest.mark.parametrize("rank", [1, *BUCKETS])
def test_adapters_equal_merged_weights(transformer, engine, rank, tmp_path):
    mix = [(made_adapter(tmp_path, engine.targets, rank), 0.7)]
    other = copy.deepcopy(transformer)
    other.load_state_dict(merged(other.state_dict(), mix, engine.targets), strict=False)
    want = EagerEngine(other, "merged")
    got = engine(rows_of(engine).adapted(factors(engine, mix)))
    torch.testing.assert_close(got, want(rows_of(want)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PLACES)
def test_an_adapter_of_one_kind(transformer, engine, narrow, kind, tmp_path):
    mix = [(made_adapter(tmp_path, engine.targets, 3, kinds=[kind]), -1.0)]
    eager = EagerEngine(transformer, "unit-test")
    want, plain = eager(rows_of(eager).adapted(factors(eager, mix))), eager(rows_of(eager))
    got = engine(rows_of(engine).adapted(factors(engine, mix)))
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)
    got = narrow(rows_of(narrow).adapted(factors(narrow, mix)))
    assert relative(got, want) < 1.35 * MOST[narrow.products]
    assert (want - plain).abs().max() > 100 * CLOSE


def test_an_adapter_meets_the_input_of_down_as_it_is_in_8_bits(engine, all_in, tmp_path):
    """Divided by its channels: A is multiplied by them, and of no other kind."""
    made = factors(engine, [(made_adapter(tmp_path, engine.targets, 3, kinds=["down", "gate"]), 1.0)])
    layers, _, inner = made.a["down"].shape
    channels = torch.exp2(torch.arange(layers * inner).view(layers, inner) % 5 - 2.0)
    resident = Resident(made, EightBits(all_in.dtype, channels))
    for kind, want in (("down", made.a["down"] * channels[:, None]), ("gate", made.a["gate"])):
        values, step = resident.a[kind]
        assert relative((values.float() * step[..., None])[:, : made.rank], want) < MOST[all_in.dtype]


def test_adapters_come_turn_and_go_in_place(engine, tmp_path):
    adapter, other = (made_adapter(tmp_path, engine.targets, rank, seed=rank) for rank in (8, 20))
    rows = rows_of(engine)
    plain = engine(rows)
    first = factors(engine, [(adapter, 1.0)])
    rows = rows.adapted(first)
    serial, loud = rows.captured_with, engine(rows)
    assert rows.lora is first and serial is not None and not torch.equal(loud, plain)
    rows = rows.adapted(factors(engine, [(adapter, 0.2)], first))
    assert rows.captured_with == serial and not torch.equal(engine(rows), loud)
    rows = rows.adapted(factors(engine, [(adapter, 0.0)], first))
    assert rows.captured_with is None and torch.equal(engine(rows), plain)
    rows = rows.adapted(first)
    assert rows.captured_with == serial and torch.equal(engine(rows), loud)
    rows = rows.adapted(factors(engine, [(other, 1.0)]))
    assert rows.captured_with not in (None, serial)
    rows = rows.adapted(None)
    assert rows.captured_with is None and torch.equal(engine(rows), plain)


def test_a_condition_that_comes_later_meets_the_adapters(engine, tmp_path):
    mix = [(made_adapter(tmp_path, engine.targets, 4, kinds=["cross_k", "cross_v"]), 1.0)]
    early = rows_of(engine).adapted(factors(engine, mix))
    late = engine.rows(3, 41, 9).adapted(factors(engine, mix))
    for i in range(3):
        late.write(i, drawn(i, 9 - 4 * i, engine.width), drawn(10 + i, 41, 128))
    late.hidden_states.copy_(early.hidden_states)
    late.timestep.copy_(early.timestep)
    assert torch.equal(engine(late), engine(early))


def test_weights_are_held_once(transformer):
    model = copy.deepcopy(transformer)
    reference = EagerEngine(model, "unit-test")
    before = reference(rows_of(reference))
    made = bind(model)
    for layer, theirs in zip(made.layers, model.layers, strict=True):
        attention = theirs.self_attn
        assert layer.qkv.values.data_ptr() == attention.to_q.weight.data_ptr()
        assert layer.qkv.values[-1].data_ptr() == attention.to_v.weight[-1].data_ptr()
        assert layer.gate_up.values[-1].data_ptr() == theirs.mlp.up_proj.weight[-1].data_ptr()
        assert layer.down.values.data_ptr() == theirs.mlp.down_proj.weight.data_ptr()
    assert made.cross_kv[-1].data_ptr() == model.layers[-1].cross_attn.to_v.weight[-1].data_ptr()
    assert torch.equal(reference(rows_of(reference)), before)
    laid = places(model)
    assert bind(model).cross_kv.data_ptr() == made.cross_kv.data_ptr() and places(model) == laid


def test_the_matrices_of_a_layer_share_memory_without_holes(transformer):
    """What stays between those that go would keep the room from being used for anything else."""
    model = copy.deepcopy(transformer)
    for _ in range(2):
        bind(model)
        for layer in model.layers:
            kinds = [kind for product in PRODUCTS.values() for kind in product]
            parts = [layer.get_submodule(PLACES[kind]).weight for kind in kinds]
            (memory,) = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values()
            assert memory <= sum(part.nbytes for part in parts) + len(PRODUCTS) * ALIGNED * parts[0].element_size()
        for parameter in model.parameters():  # as a host brings them back
            parameter.data = parameter.data.clone()


@pytest.mark.parametrize("change", [{"dtype": torch.bfloat16}, {"device": "meta"}])
def test_weights_of_which_some_are_narrower_or_elsewhere_are_refused(transformer, change):
    model = copy.deepcopy(transformer)
    model.layers[1].mlp.up_proj.to(**change)
    with pytest.raises(EngineError, match=r"torch.\w+ on \w+ and torch.\w+ on \w+"):
        bind(model)
    assert model.layers[1].mlp.down_proj.weight.dtype == torch.float32


def test_weights_that_a_host_moved_are_found_again(transformer):
    model = copy.deepcopy(transformer)
    moves = []

    def move():
        moves.append([parameter.data for parameter in model.parameters()])
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()

    engine = CompiledEngine(model, "unit-test", ready=move)
    want = engine(rows_of(engine))
    engine.ready()
    weights = engine.decoder.weights
    with torch.no_grad():
        model.layers[0].self_attn.to_k.weight.mul_(2.0)
    assert not torch.equal(engine(rows_of(engine)), want), "the engine plays on what the model no longer holds"
    engine.rest()
    assert engine.decoder.bound is None
    engine.ready()
    assert len(moves) == 2 and engine.decoder.weights is not weights


def test_a_second_session_moves_nothing(transformer):
    engine = CompiledEngine(copy.deepcopy(transformer), "unit-test", narrow=Narrow())
    engine.ready()
    weights = engine.decoder.weights
    engine.ready()
    engine.rest()
    assert engine.decoder.weights is weights
    engine.rest()
    assert engine.decoder.bound is None


def test_rows_keep_the_weights_of_their_passes(transformer):
    """A captured pass goes on reading them, also when another session's end lets the engine rest."""
    engine = CompiledEngine(copy.deepcopy(transformer), "unit-test", narrow=Narrow())
    rows = rows_of(engine)
    kept, want = rows.weights.layers[0].down.values.data_ptr(), engine(rows)
    engine.ready()
    engine.rest()
    assert torch.equal(engine(rows), want) and rows.part(0, 1).weights.layers[0].down.values.data_ptr() == kept
