"""LoKr: read by LyCORIS's rule, added without its product, merged, and cut down for engines of low-rank factors."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.compiled.engine import CompiledEngine
from ostinato.engine_runtime.engines.compiled.plain import NARROW
from ostinato.engine_runtime.engines.compiled.weights import Narrow
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.factors import Targets, kron_product
from ostinato.engine_runtime.errors import InputError, ModelError
from ostinato.engine_runtime.lora.adapter import Adapter
from ostinato.engine_runtime.lora.stack import cut_down, merged, stack, stacked_for
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.takes.render import render
from safetensors.torch import save_file

from ...adapters import THEIRS, lokr_of, made_adapter
from ...helpers import drawn
from ..refusal import check_sentence

CPU = torch.device("cpu")
LANE = Lane(CPU)
RANKS = [(None, None), (2, None), (None, 3), (2, 3)]


@pytest.fixture(scope="module")
def transformer(turbo):
    return turbo.pipe.transformer


@pytest.fixture(scope="module")
def targets(transformer):
    return Targets.of(transformer)


def read(folder, targets, tensors, name="lokr.safetensors") -> Adapter:
    save_file(tensors, folder / name)
    return Adapter.read(folder / name, targets)


def by_hand(targets, tensors, prefix="lycoris_", scale=1.0) -> dict[str, torch.Tensor]:
    """`scale * kron(w1, w2)` of each layer, in float64, by the names of the reference model."""
    found = {}
    for layer in range(targets.layers):
        for kind, place in THEIRS.items():
            path = f"layers.{layer}.{place}"
            path = prefix + (path if prefix.endswith(".") else path.replace(".", "_"))
            sides = []
            for side in ("w1", "w2"):
                parts = [
                    tensors[f"{path}.lokr_{s}"].double()
                    for s in (f"{side}_a", f"{side}_b")
                    if f"{path}.lokr_{s}" in tensors
                ]
                sides.append(parts[0] @ parts[1] if parts else tensors[f"{path}.lokr_{side}"].double())
            found[targets.parameter(layer, kind)] = scale * torch.kron(*sides)
    return found


def rows_of(engine, frames=26):
    rows = engine.rows(2, frames, 9)
    for i in range(2):
        rows.write(i, drawn(i, 9 - 2 * i, engine.width), drawn(10 + i, frames, 128))
    rows.hidden_states.copy_(drawn(20, *rows.hidden_states.shape))
    rows.timestep.copy_(torch.tensor([0.3, 0.9]))
    return rows


def with_weights(transformer, changes, strength):
    other = copy.deepcopy(transformer)
    with torch.no_grad():
        for name, change in changes.items():
            other.get_parameter(name).add_(change.to(torch.float32), alpha=strength)
    engine = EagerEngine(other, "merged")
    return engine(rows_of(engine)).clone()


@pytest.mark.parametrize("kind", [EagerEngine, CompiledEngine])
@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_it_plays_as_the_weights_with_its_product_in_them(transformer, targets, tmp_path, ranks, kind):
    tensors = lokr_of(targets, ranks=ranks, alpha=6.0 if any(ranks) else None)
    scale = 6.0 / (ranks[1] or ranks[0]) if any(ranks) else 1.0
    adapter, engine = read(tmp_path, targets, tensors), kind(copy.deepcopy(transformer), "lokr")
    plain = engine(rows_of(engine)).clone()
    got = engine(rows_of(engine).adapted(stacked_for(engine, [(adapter, 0.7)], LANE))).clone()
    want = with_weights(transformer, by_hand(targets, tensors, scale=scale), 0.7)
    torch.testing.assert_close(got, want, atol=3e-5, rtol=0)
    assert (want - plain).abs().max() > 0.02


def test_it_plays_beside_a_lora(transformer, targets, tmp_path):
    tensors = lokr_of(targets)
    mix = [(read(tmp_path, targets, tensors), 0.7), (made_adapter(tmp_path, targets, 8), 0.5)]
    want = with_weights(
        transformer,
        {n: w - transformer.get_parameter(n) for n, w in merged(transformer.state_dict(), mix, targets).items()},
        1,
    )
    for engine in (EagerEngine(transformer, "a"), CompiledEngine(copy.deepcopy(transformer), "b")):
        got = engine(rows_of(engine).adapted(stacked_for(engine, mix, LANE)))
        torch.testing.assert_close(got, want, atol=3e-5, rtol=0)


def test_a_strength_that_moves_is_read_at_the_same_addresses(transformer, targets, tmp_path):
    adapter, engine = read(tmp_path, targets, lokr_of(targets)), CompiledEngine(copy.deepcopy(transformer), "lokr")
    rows = rows_of(engine).adapted(stacked_for(engine, [(adapter, 0.2)], LANE))
    serial = rows.captured_with
    rows = rows.adapted(stacked_for(engine, [(adapter, 0.7)], LANE))
    assert rows.captured_with == serial
    fresh = rows_of(engine).adapted(stacked_for(engine, [(adapter, 0.7)], LANE))
    assert torch.equal(engine(rows), engine(fresh))


@pytest.mark.parametrize("dtype", NARROW.values(), ids=NARROW)
def test_an_engine_in_8_bits_is_near(transformer, targets, dtype, tmp_path):
    tensors = lokr_of(targets)
    adapter = read(tmp_path, targets, tensors)
    engine = CompiledEngine(copy.deepcopy(transformer), "lokr", narrow=Narrow(dtype))
    got = engine(rows_of(engine).adapted(stacked_for(engine, [(adapter, 0.7)], LANE)))
    want, plain = with_weights(transformer, by_hand(targets, tensors), 0.7), with_weights(transformer, {}, 0)
    assert (got - want).norm() / want.norm() < 0.06 < (want - plain).norm() / want.norm()


def test_merged_weights_have_its_product(transformer, targets, tmp_path):
    tensors = lokr_of(targets, ranks=(None, 3), alpha=6.0)
    changed = merged(transformer.state_dict(), [(read(tmp_path, targets, tensors), -0.5)], targets)
    for name, change in by_hand(targets, tensors, scale=6.0 / 3).items():
        want = transformer.get_parameter(name).detach().double() - 0.5 * change
        torch.testing.assert_close(changed[name].double(), want, atol=1e-6, rtol=0)


def test_the_scale_is_lycoris_and_with_a_config_pefts(targets, tmp_path):
    """Of two whole matrices LyCORIS's alpha is its rank, whatever it is; PEFT's counts."""
    (tmp_path / "peft").mkdir()

    def scales(ranks, alpha=None, config=None, prefix="lycoris_"):
        if config is not None:
            (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(config))
        folder, name = (
            (tmp_path, "a.safetensors") if config is None else (tmp_path / "peft", "adapter_model.safetensors")
        )
        adapter = read(folder, targets, lokr_of(targets, ranks=ranks, alpha=alpha, prefix=prefix), name)
        return {scale for _, _, scale in adapter.krons.values()}, "no alpha" in adapter.note

    assert scales((None, None), 4.0) == ({1.0}, False) and scales((None, None)) == ({1.0}, False)
    assert scales((2, None), 4.0) == ({2.0}, False) and scales((None, 4), 2.0) == ({0.5}, False)
    assert scales((2, 4), 2.0) == ({0.5}, False)
    assert scales((2, None)) == ({1.0}, True)
    config, head = {"peft_type": "LOKR", "r": 4, "alpha": 8}, "base_model.model."
    assert scales((None, None), None, config, head) == ({2.0}, False)
    assert scales((None, 4), None, config, head) == ({2.0}, False)


def test_the_product_is_the_kronecker_product():
    for p, q, m, n in ((2, 3, 4, 5), (1, 1, 3, 2), (3, 2, 1, 1)):
        w1, w2, x = drawn(1, p, q).double(), drawn(2, m, n).double(), drawn(3, 6, 7, q * n).double()
        torch.testing.assert_close(kron_product(x, w1, w2), x @ torch.kron(w1, w2).T)


def test_cut_down_it_is_the_nearest_of_that_rank(targets, tmp_path, caplog):
    adapter = read(tmp_path, targets, lokr_of(targets, kinds=["self_q", "up"]))
    less, error = cut_down(adapter, 8)
    lost = whole = 0.0
    for place, (w1, w2, scale) in adapter.krons.items():
        full = scale * torch.kron(w1, w2)
        a, b, _ = less.pairs[place]
        values = torch.linalg.svdvals(full)
        assert float((full - scale * b @ a).norm()) == pytest.approx(float(values[8:].norm()), rel=1e-3)
        lost, whole = lost + values[8:].square().sum(), whole + values.square().sum()
    assert error == pytest.approx(float((lost / whole).sqrt()), rel=1e-3) and 0.1 < error < 1 and less.rank == 8
    assert cut_down(adapter, 10_000)[1] == 0.0
    with caplog.at_level(logging.WARNING):
        factors = stack([(adapter, 1.0)], targets, torch.float32, CPU, LANE, low_rank=8)
    assert factors.error == error and not factors.krons and factors.rank == 8 and factors.used == {"self_q", "up"}
    assert f"at rank 8 it is {100 * error:.1f} % off" in caplog.text


def test_an_engine_of_low_rank_factors_refuses_it_whole_and_has_no_room_beside_others(targets, tmp_path):
    adapter, lora = read(tmp_path, targets, lokr_of(targets)), made_adapter(tmp_path, targets, 8)
    with pytest.raises(InputError, match="LoKr") as caught:
        stack([(adapter, 1.0)], targets, torch.float32, CPU, LANE).check(targets, torch.float32, CPU, 32, krons=False)
    check_sentence(caught.value)
    with pytest.raises(InputError, match="the whole rank of the engine, 8") as caught:
        stack([(adapter, 1.0), (lora, 1.0)], targets, torch.float32, CPU, LANE, low_rank=8)
    check_sentence(caught.value)
    stack([(adapter, 1.0), (lora, 1.0)], targets, torch.float32, CPU, LANE, low_rank=32)


def test_a_request_has_its_bits_in_any_company(transformer, targets, tmp_path, turbo, conditions):
    adapter, engine = read(tmp_path, targets, lokr_of(targets)), EagerEngine(transformer, "lokr")
    one, two, three = conditions(turbo, 25, 3)

    def played(*others):
        mine = Request(one, Sampling(3, seed=1))
        requests = [mine, *(Request(other, Sampling(3, seed=9)) for other in others)]
        return render("lokr", engine, requests, depth=3, adapters=[(adapter, 0.8)])[0][0]

    alone = played()
    assert torch.equal(played(two, three), alone)


BROKEN = {
    "another size": ("lokr_w2", lambda t: t[:, :-1], "instead of"),
    "a convolution's": ("lokr_w1", lambda t: t[:, :, None, None], "no matrices"),
    "empty": ("lokr_w1", lambda t: t[:0], "no matrices"),
    "no number": ("lokr_w1", lambda t: t * torch.nan, "not all finite"),
    "half of it": ("lokr_w2", lambda t: None, "no whole pair"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_lokr_of_the_model_is_refused(targets, tmp_path, what):
    side, change, words = BROKEN[what]
    tensors = lokr_of(targets, kinds=["self_q"])
    name = f"lycoris_layers_0_self_attn_q_proj.{side}"
    made = change(tensors.pop(name))
    if made is not None:
        tensors[name] = made.contiguous()
    with pytest.raises(ModelError, match=words) as caught:
        read(tmp_path, targets, tensors)
    check_sentence(caught.value)
