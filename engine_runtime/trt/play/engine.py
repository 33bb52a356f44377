"""A TensorRT engine behind the decoder contract: resident rows in, velocity out.

B rows, T frames (even), L condition tokens, H condition width, r adapter rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...engines.contract import Limits, Rows
from ...engines.factors import Targets
from ...engines.profiles import Profile, smallest
from ...engines.prove import Proof, gpu_name
from ...errors import EngineError, EngineLimitError
from ...spec import ACE_STEP, ModelId, ModelSpec
from ..files.sidecar import Sidecar
from ..library.flavor import Flavor
from .executor import Executor
from .layer_times import LayerTimes

if TYPE_CHECKING:
    import tensorrt as trt

FED = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "context_latents")
VELOCITY = "velocity"


class TrtEngine:
    """An `engines.contract.Engine` on an execution context.

    Rows are bound where they lie. The velocity lies in a buffer that the next call overwrites. All calls of one engine
    are made by the holder of the device's lane lock, on the lane's stream.

    Args:
        executor: of the loaded plan.
        flavor: its library.
        sidecar: of the plan.

    Attributes:
        targets: the layers whose adapter factors are inputs; None for a plan without such inputs.
        proof: the check that it has passed; None until there is one.
        wake: called by `ready`; reopens the engine where a memory manager closed it.
    """

    spec: ModelSpec = ACE_STEP  # the only model that is exported
    recipe: dict[str, Any] | None = None
    model: ModelId | None = None
    capturable = False  # its executor captures graphs where the library allows it
    modules = None
    krons = False  # its graph has places for low-rank factors

    def __init__(self, executor: Executor, flavor: Flavor, sidecar: Sidecar) -> None:
        self.executor, self.flavor, self.sidecar = executor, flavor, sidecar
        self.profiles: tuple[Profile, ...] = sidecar.profiles
        self.limits = limits_of(self.profiles)
        self.dtype = executor.dtypes["hidden_states"]
        self.device = executor.device
        with executor.paused() as engine:
            self.width = int(tuple(engine.get_tensor_shape("encoder_hidden_states"))[2])
        self.targets = Targets.from_record(sidecar.export.get("lora"))
        self.proof = Proof.of(sidecar.proof)
        self.wake: Callable[[], None] = lambda: None
        self._still: dict[str, Tensor] | None = None  # zero factors, for no adapter
        weights = sidecar.export["weights"][:16]
        self.identity = f"{flavor.name}:{flavor.version}:{weights}:{self.dtype}:{sidecar.plan_sha256}:{self.device}"
        self.name = f"{flavor.title}, {str(self.dtype).removeprefix('torch.')} on {self.device}"

    def ready(self) -> None:
        """Make the execution context, which allocates the workspace. Raises `MemoryShortage` where there is no room."""
        self.wake()
        _ = self.executor.context

    def rest(self) -> None:
        """Release the session's rows; the weights and the workspace stay until `shed`."""
        self.executor.settle()

    @contextmanager
    def own_profiler(self) -> Iterator[LayerTimes]:
        """Attach TensorRT's profiler for the length of a block; afterwards the context is made anew, without one."""
        try:
            yield LayerTimes(self, self.executor, self.flavor)
        finally:
            self.shed()
            self.ready()

    def shed(self) -> None:
        """Free the workspace and the buffers once nothing runs; the next call or `ready` allocates them again."""
        self._still = None
        self.executor.shed()

    def close(self) -> None:
        """Free everything once nothing runs. Closing twice is allowed."""
        self._still = None
        self.executor.close()

    def paused(self) -> AbstractContextManager[trt.ICudaEngine]:
        """Yield the library's engine with nothing running, for a refit; captured graphs are dropped."""
        return self.executor.paused()

    def rows(self, batch: int, frames: int, tokens: int) -> Rows:
        """Allocate resident rows. Where every profile needs more tokens, more are allocated; they are masked.

        Raises:
            EngineLimitError: for sizes over the limits, or where no single profile takes them together.
        """
        most = min(batch, self.limits.batch)
        self.limits.check(most, frames, tokens)
        frames = self.spec.padded(frames)
        tokens = max(tokens, min(p.tokens.min for p in self.profiles if p.tokens))
        self.profile_for(most, frames, tokens, None)
        self.executor.settle()
        return Rows.allocate(self.spec, batch, frames, tokens, self.width, self.dtype, self.device)

    def __call__(self, rows: Rows) -> Tensor:
        """Enqueue one decode on the current stream and return the velocity `[B, T, C]`, which the next call
        overwrites."""
        inputs = {name: getattr(rows, name) for name in FED}
        if rows.lora is not None and not (rows.lora.silent and self.targets is None):
            rows.lora.check(self.targets, self.dtype, self.device, krons=self.krons)
        rank = None
        if self.targets is not None:
            inputs |= self._no_factors(self.targets) if rows.lora is None else rows.lora.inputs()
            rank = inputs[f"lora_{next(iter(self.targets.kinds))}_a"].shape[1]
        batch, frames = rows.hidden_states.shape[:2]
        profile = self.profile_for(batch, frames, rows.encoder_hidden_states.shape[1], rank)
        return self.executor.run(inputs, profile)[VELOCITY]

    def profile_for(self, batch: int, frames: int, tokens: int, rank: int | None) -> int:
        """Return the index of the smallest profile that takes these sizes.

        It depends on the sizes alone, so that the same music uses the same kernels whatever was played before.

        Raises:
            EngineLimitError: when there is none; the message lists all profiles.
        """
        found = smallest(self.profiles, batch, frames, tokens, rank)
        if found is None:
            adapted = "" if rank is None else f" and adapters of rank {rank}"
            raise EngineLimitError(
                f"{batch} rows of {frames} frames and {tokens} condition tokens{adapted} were asked of the engine",
                f"it takes {'; or '.join(map(str, self.profiles))}",
                "change the depth, the seconds or the adapters, or build an engine with a profile for them",
            )
        return found

    def _no_factors(self, targets: Targets) -> dict[str, Tensor]:
        """Return zero factors at the smallest rank that the engine takes."""
        if self._still is None:
            rank = min(p.rank.min for p in self.profiles if p.rank)
            sizes = {kind: ((rank, a), (b, rank)) for kind, (a, b) in targets.kinds.items()}
            self._still = {
                f"lora_{kind}_{side}": torch.zeros(targets.layers, *size, dtype=self.dtype, device=self.device)
                for kind, pair in sizes.items()
                for side, size in zip("ab", pair, strict=True)
            }
        return self._still

    @property
    def verified(self) -> bool:
        """Return whether it has passed its check on a GPU of this name."""
        return self.proof is not None and self.proof.gpu == gpu_name(self.device)

    def summary(self) -> str:
        plain, guided = self.limits.depth_in_one_pass(False), self.limits.depth_in_one_pass(True)
        checked = self.proof.summary() if self.proof and self.verified else "unverified on this GPU"
        return f"{self.name}; in one pass: depth up to {plain}, with guidance up to {guided}; {checked}"


def limits_of(profiles: Sequence[Profile]) -> Limits:
    """Return the largest value of each size over all profiles; `rows` checks which go together.

    Raises:
        EngineError: for a VAE's profiles, which have no tokens.
    """
    tokens = [p.tokens.max for p in profiles if p.tokens]
    if not tokens or len(tokens) < len(profiles):
        raise EngineError("the engine is not of a decoder", "its profiles have condition tokens", "choose another")
    rank = max((p.rank.max for p in profiles if p.rank), default=1)
    return Limits(max(p.batch.max for p in profiles), max(p.frames.max for p in profiles), max(tokens), rank)
