"""Refit against a stand-in with the Refitter's own surface: pristine values, whole or not at all, faults included."""

from __future__ import annotations

import copy
import ctypes
import enum
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.device.capture import Capture, OwnPools
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.contract import LIMITS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.factors import Targets
from ostinato.engine_runtime.errors import EngineError, InputError
from ostinato.engine_runtime.lora.stack import stack
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.trt.library.flavor import Flavor
from ostinato.engine_runtime.trt.library.messages import Errors
from ostinato.engine_runtime.trt.play.executor import Executor
from ostinato.engine_runtime.trt.play.refit import Refit, Source

from .... import trt_stand_in as stand_in
from ....adapters import made_adapter
from ....bindings import RELEASES, parameters
from ....graph_stand_in import CUDA, noting
from ....helpers import drawn

CPU = torch.device("cpu")


class DataType(enum.Enum):
    FLOAT = 0
    BF16 = 7


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


TYPES = {DataType.FLOAT: torch.float32, DataType.BF16: torch.bfloat16}


class Weights:
    """TensorRT's: a dtype, an address and a count; nothing is kept alive."""

    def __init__(self, type, ptr=0, count=0):
        self.dtype, self.ptr, self.size = type, ptr, count

    def read(self):
        size = self.size * TYPES[self.dtype].itemsize
        return torch.frombuffer(bytearray(ctypes.string_at(self.ptr, size)), dtype=TYPES[self.dtype])


class Logger:
    def __init__(self):
        pass


class Recorder(Logger):
    pass


@dataclass
class Built:
    """A refittable engine: its weights by initializer, flat, as TensorRT holds them.

    Attributes:
        couples: what must be supplied together with a weight.
        faults: calls of the coming refits that go wrong: `half` applies a subset and returns False, `raise` raises.
    """

    weights: dict
    couples: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    refused: set = field(default_factory=set)
    refittable: bool = True
    num_io_tensors: int = 0
    refits: int = 0


class Refitter:
    """The members that TensorRT's has in every release from 10.13 on; it returns False where that does."""

    def __init__(self, engine, logger):
        assert isinstance(logger, Logger)
        self.engine, self.given, self.error_recorder = engine, {}, None

    def get_all_weights(self):
        return list(self.engine.weights)

    def get_weights_prototype(self, weights_name):
        own = self.engine.weights.get(weights_name)
        kind = DataType.BF16 if own is not None and own.dtype == torch.bfloat16 else DataType.FLOAT
        return Weights(kind, 0, -1 if own is None else own.numel())

    def set_named_weights(self, name, weights, location=TensorLocation.HOST):
        assert location is TensorLocation.HOST
        wanted = self.get_weights_prototype(name)
        if name in self.engine.refused or (weights.dtype, weights.size) != (wanted.dtype, wanted.size):
            return False
        self.given[name] = weights
        return True

    def get_missing_weights(self):
        needed = {other for name in self.given for other in self.engine.couples.get(name, ())}
        return sorted(needed - self.given.keys())

    def refit_cuda_engine_async(self, stream_handle):
        assert isinstance(stream_handle, int) and isinstance(self.error_recorder, Recorder)
        self.engine.refits += 1
        if self.get_missing_weights():
            return False
        fault = self.engine.faults.pop(0) if self.engine.faults else None
        names = sorted(self.given)
        for name in names[: len(names) // 2] if fault else names:
            self.engine.weights[name] = self.given[name].read()
        if fault == "raise":
            raise RuntimeError("the library raised")
        return fault is None


MODULE = SimpleNamespace(
    Refitter=Refitter,
    Weights=Weights,
    TensorLocation=TensorLocation,
    ILogger=Logger,
    IErrorRecorder=Recorder,
    TensorIOMode=enum.Enum("M", "OUTPUT"),
)


@pytest.fixture(scope="module")
def transformer(turbo):
    return turbo.pipe.transformer


@pytest.fixture(scope="module")
def targets(transformer):
    return Targets.of(transformer)


def names_of(transformer):
    """As an export makes them: every matrix transposed under a number, the rest under its own name."""
    names = {}
    for i, (name, p) in enumerate(transformer.named_parameters()):
        transposed = p.ndim == 2 and "layers." in name
        names[f"val_{i}" if transposed else name] = {"param": name, "transposed": transposed}
    return names


class Player:
    """The engine that a test plays: the stand-in's weights in a decoder of their own."""

    def __init__(self, transformer, dtype=torch.float32, **options):
        self.model, self.names = copy.deepcopy(transformer), names_of(transformer)
        state = transformer.state_dict()
        flat = {n: (state[e["param"]].T if e["transposed"] else state[e["param"]]) for n, e in self.names.items()}
        self.built = Built({n: t.contiguous().flatten().to(dtype) for n, t in flat.items()}, **options)
        self.errors, self.lane, self.proofs = Errors(), Lane(CPU), 0
        flavor = Flavor("tensorrt", MODULE, "10.13.0")
        self.executor = Executor(self.built, flavor, self.errors, CPU, lambda _: None)
        source = Source(state, self.names, Targets.of(transformer))
        self.refit = Refit(self.executor, flavor, self.errors, source, self.lane)
        self.reference, self.targets = EagerEngine(transformer, "reference", LIMITS), source.targets
        self.pristine = self.bits()

    def bits(self):
        return {name: tensor.clone() for name, tensor in self.built.weights.items()}

    def is_pristine(self):
        return all(torch.equal(t, self.pristine[n]) for n, t in self.built.weights.items())

    def rows(self):
        rows = self.reference.rows(2, 8, 5)
        for i in range(2):
            rows.write(i, drawn(i, 5, self.reference.width), drawn(9 + i, 8, 128))
        rows.hidden_states.copy_(drawn(20, 2, 8, 64))
        rows.timestep.fill_(0.5)
        return rows

    def velocity(self):
        for name, entry in self.names.items():
            parameter = self.model.get_parameter(entry["param"])
            flat = self.built.weights[name].float()
            parameter.data = flat.view(parameter.T.shape).T if entry["transposed"] else flat.view_as(parameter)
        return EagerEngine(self.model, "played", LIMITS)(self.rows())

    def prove(self, mix):
        def check():
            self.proofs += 1
            factors = stack(mix, self.targets, torch.float32, CPU, self.lane)
            torch.testing.assert_close(self.velocity(), self.reference(self.rows().adapted(factors)), atol=1e-5, rtol=0)

        return check

    def apply(self, mix):
        self.refit.apply(mix, self.prove(mix))


@pytest.fixture
def mixes(targets, tmp_path):
    a, b = (
        made_adapter(tmp_path, targets, 8, seed=1),
        made_adapter(tmp_path, targets, 4, seed=2, kinds=("up", "cross_k")),
    )
    return [(a, 1.0)], [(b, -0.7)]


def test_the_engine_plays_what_the_adapters_ask_for(transformer, mixes):
    """Compared with eager before it plays: the same adapters as factors, over the transposed names of an export."""
    player = Player(transformer)
    plain = player.velocity()
    for mix in (*mixes, [*mixes[0], *mixes[1]], []):
        player.apply(mix)
        assert torch.equal(player.velocity(), plain) is not bool(mix)
    assert player.proofs == 4 and player.refit.changed == frozenset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_b_a_is_bit_equal_and_nothing_is_left(transformer, mixes, dtype):
    player, played = Player(transformer, dtype), []
    for mix in (mixes[0], mixes[1], mixes[0], mixes[1], []):
        player.refit.apply(mix, lambda: None)
        played.append(player.bits())
    for one, other in ((0, 2), (1, 3)):
        assert all(torch.equal(t, played[other][n]) for n, t in played[one].items())
    assert player.is_pristine()
    assert any(not torch.equal(t, player.pristine[n]) for n, t in played[1].items())


def test_b_touches_only_its_own_and_what_a_left(transformer, mixes, targets):
    player = Player(transformer)
    player.refit.apply(mixes[1], lambda: None)
    changed = {n for n, t in player.built.weights.items() if not torch.equal(t, player.pristine[n])}
    assert len(changed) == len(player.refit.changed) == 2 * targets.layers
    assert {player.names[n]["param"] for n in changed} == player.refit.changed


def test_coupled_weights_are_supplied_pristine(transformer, mixes):
    """What an optimisation combined with a weight must come along, also what only that one is coupled with."""
    player = Player(transformer)
    up = next(n for n, e in player.names.items() if e["param"] == "layers.0.mlp.up_proj.weight")
    player.built.couples = {up: ["norm_out.weight"], "norm_out.weight": ["condition_embedder.bias"]}
    player.apply(mixes[1])
    player.apply([])
    assert player.is_pristine()


def test_weights_without_a_name_are_told(transformer, mixes, targets):
    player = Player(transformer)
    gone = [n for n, e in player.names.items() if e["param"] == "layers.1.mlp.up_proj.weight"]
    player.built.weights.pop(gone[0])
    with pytest.raises(EngineError, match=r"1 weights cannot be refitted \(layers.1.mlp.up_proj.weight\)"):
        player.apply(mixes[1])
    assert player.built.refits == 0
    other = Player(transformer)
    up = next(n for n, e in other.names.items() if e["param"] == "layers.0.mlp.up_proj.weight")
    for coupled, told in (("", "one without a name"), ("fused_7", "fused_7")):
        other.built.couples = {up: [coupled]}
        with pytest.raises(EngineError, match=told):
            other.apply(mixes[1])
    other.built.couples, other.built.refused = {}, {up}
    with pytest.raises(EngineError, match=f"set_named_weights.{up}. for layers.0.mlp.up_proj.weight failed"):
        other.apply(mixes[1])
    other.built.refused = set()
    other.built.weights[up] = other.built.weights[up][:-1]
    with pytest.raises(EngineError, match="layers.0.mlp.up_proj.weight, which has 32768 values here and 32767"):
        other.apply(mixes[1])
    assert other.built.refits == 0, "nothing was written before all was known"


def test_an_engine_that_is_not_refittable_says_what_to_do(transformer, mixes):
    player = Player(transformer, refittable=False)
    with pytest.raises(EngineError, match="not built refittable.*LoRA inputs"):
        player.apply(mixes[0])


@pytest.mark.parametrize("fault", ["half", "raise"])
def test_half_an_adapter_never_plays(transformer, mixes, fault):
    """The library fails with a subset applied, over the adapter that played before: all pristine, and usable."""
    player = Player(transformer)
    player.apply(mixes[0])
    player.built.faults = [fault]
    player.errors.add(SimpleNamespace(name="INTERNAL_ERROR"), "out of luck")
    with pytest.raises(EngineError, match="refit with .* failed .*out of luck"):
        player.apply(mixes[1])
    assert player.is_pristine() and player.refit.changed == frozenset() and player.refit.label == "no adapter"
    player.apply(mixes[1])
    player.apply([])
    assert player.is_pristine()


def test_an_engine_that_cannot_be_brought_back_is_closed(transformer, mixes):
    player = Player(transformer, faults=["half", "half"])
    with pytest.raises(EngineError, match="could not be brought back.*load the engine again"):
        player.apply(mixes[0])
    assert player.executor.engine is None
    with pytest.raises(EngineError, match="closed"):
        player.apply(mixes[0])


def test_what_fails_the_proof_does_not_play(transformer, mixes):
    """A bias that a refit drops, say: the pristine weights are back before anyone hears it."""
    player = Player(transformer)
    player.apply(mixes[0])

    def wrong():
        assert not player.is_pristine()
        raise EngineError("the engine is 0.3 off", "allowed is 0.01", "play it without")

    with pytest.raises(EngineError, match="0.3 off"):
        player.refit.apply(mixes[1], wrong)
    assert player.is_pristine()
    player.apply(mixes[0])


def test_no_tick_runs_between_the_refit_and_its_proof(transformer, mixes):
    player, ticked = Player(transformer), threading.Event()

    def tick():
        with player.lane.lock:
            ticked.set()

    def check():
        threading.Thread(target=tick, daemon=True).start()
        assert not ticked.wait(0.2)

    player.refit.apply(mixes[0], check)
    assert ticked.wait(5)


def test_captured_graphs_are_dropped(transformer, mixes, monkeypatch):
    noting(monkeypatch)
    player = Player(transformer)
    capture = player.executor.capture = Capture(CUDA, pool=OwnPools())
    for _ in range(2):
        capture.run("a shape that ran", lambda: None)
    assert capture.replayed
    player.apply(mixes[0])
    assert not capture.replayed


def test_bad_mixes_change_nothing(transformer, mixes):
    player = Player(transformer)
    with pytest.raises(InputError, match="strength"):
        player.apply([(mixes[0][0][0], float("nan"))])
    assert player.built.refits == 0


def test_a_loaded_engine_can_be_asked(turbo, targets, mixes):
    """The runtime's own engine, on its stand-in, which is built without refit."""
    plan = stand_in.make(eager_engine(turbo))
    library = stand_in.library()
    engine = library.load(plan.data, plan.sidecar, CPU)
    source = Source(turbo.pipe.transformer.state_dict(), names_of(turbo.pipe.transformer), targets)
    module = SimpleNamespace(**vars(stand_in), Refitter=Refitter, Weights=Weights)
    flavor = Flavor("tensorrt", module, "10.13.0")
    with pytest.raises(EngineError, match="not built refittable"):
        Refit(engine, flavor, library.errors, source, Lane(CPU)).apply(mixes[0], lambda: None)
    assert engine.executor.engine is not None, "it plays on"


@pytest.mark.parametrize("release", RELEASES)
def test_the_stand_in_has_the_members_of_the_real_one(release):
    classes, enums = RELEASES[release]["classes"], RELEASES[release]["enums"]
    for name in (n for n in vars(Refitter) if not n.startswith("_")):
        code = getattr(Refitter, name).__code__
        assert list(code.co_varnames[1 : code.co_argcount]) in [parameters(s) for s in classes["Refitter"][name]], name
    assert classes["Refitter"]["error_recorder"]["set"] and "refittable" in classes["ICudaEngine"]
    assert ["type", "ptr", "count"] in [parameters(s) for s in classes["Weights"]["__init__"]]
    assert {m.name for m in TensorLocation} <= {*enums["TensorLocation"]}
    assert {m.name for m in DataType} <= {*enums["DataType"]}
