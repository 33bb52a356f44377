"""One half of a VAE on a TensorRT engine, used in place of the model.

B clips, T latent frames of C channels, hop samples a frame, A audio channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...engines.profiles import smallest
from ...engines.prove import Proof, gpu_name
from ...errors import EngineError, EngineLimitError
from ..files.sidecar import Sidecar
from ..library.flavor import Flavor
from .executor import Executor

if TYPE_CHECKING:
    import tensorrt as trt


class TrtVae:
    """The decoder or the encoder of an autoencoder, on an execution context with its own stream.

    `audio.decode` takes it in place of the model. Any thread may call it, on any stream: its work is ordered after that
    stream's earlier work and before its later work.

    Args:
        executor: of the loaded plan.
        flavor: its library.
        sidecar: of the plan.

    Attributes:
        config, upsampling_ratios: as the model has them.
        least: fewest frames that its smallest profile takes.
        proof: the check that it has passed; None until there is one.
        wake: called by `ready`, and before a signal that comes when it is closed; reopens it where a memory manager
            closed it.
    """

    def __init__(self, executor: Executor, flavor: Flavor, sidecar: Sidecar) -> None:
        if sidecar.export["kind"] == "decoder":
            raise EngineError("the engine is not of a VAE", "its profiles have no tokens", "choose another")
        self.executor, self.flavor, self.sidecar = executor, flavor, sidecar
        self.device, self.dtype = executor.device, executor.dtypes[executor.outputs[0]]
        self.config = SimpleNamespace(**sidecar.export["config"])
        self.upsampling_ratios: list[int] = self.config.downsampling_ratios[::-1]
        self._hop = math.prod(self.upsampling_ratios)
        self.least = min(profile.frames.min for profile in sidecar.profiles)
        self.proof = Proof.of(sidecar.proof)
        self.wake: Callable[[], None] = lambda: None
        self.identity = f"{flavor.name}:{flavor.version}:{sidecar.export['kind']}:{sidecar.plan_sha256}:{self.device}"
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __call__(self, signal: Tensor) -> Tensor:
        """Decode latents `[B, C, T]` to audio `[B, A, hop T]`, or encode audio to its posterior's mean.

        Args:
            signal: in its dtype, on its device.

        Returns:
            A new tensor, ordered on the current stream.

        Raises:
            EngineLimitError: for sizes that no profile takes.
        """
        if self.executor.engine is None:
            self.wake()
        (name,), (out,) = self.executor.inputs, self.executor.outputs
        profile = self._profile_for(name, tuple(signal.shape))
        with self.executor.lock:  # the next run overwrites the output
            return self._beside(lambda: self.executor.run({name: signal.contiguous()}, profile)[out].clone())

    def decoder(self, latents: Tensor) -> Tensor:
        """Decode, under the model's own name for it."""
        return self(latents)

    def ready(self) -> None:
        """Make the execution context, which allocates the workspace. Raises `MemoryShortage` where there is no room."""
        self.wake()
        _ = self.executor.context

    def rest(self) -> None:
        """Free the workspace once nothing runs; the next call or `ready` allocates it again."""
        self.executor.shed()

    def paused(self) -> AbstractContextManager[trt.ICudaEngine]:
        """Yield the library's engine with nothing running."""
        return self.executor.paused()

    @property
    def verified(self) -> bool:
        """Return whether it has passed its check on a GPU of this name."""
        return self.proof is not None and self.proof.gpu == gpu_name(self.device)

    def summary(self) -> str:
        checked = self.proof.summary() if self.proof and self.verified else "unverified on this GPU"
        return f"{self.flavor.title}, {str(self.dtype).removeprefix('torch.')} on {self.device}; {checked}"

    def close(self) -> None:
        """Free everything once nothing runs. Closing twice is allowed."""
        self.executor.close()

    def _profile_for(self, name: str, shape: tuple[int, ...]) -> int:
        frames = shape[2] if name == "latents" else shape[2] // self._hop
        found = smallest(self.sidecar.profiles, shape[0], frames)
        if found is None or (name != "latents" and shape[2] % self._hop):
            raise EngineLimitError(
                f"{shape[0]} clips of {frames} frames were asked of the VAE's engine",
                f"it takes {'; or '.join(map(str, self.sidecar.profiles))}",
                "decode in windows that fit with the frames around them, or build one with a profile for them",
            )
        return found

    def _beside(self, work: Callable[[], Tensor]) -> Tensor:
        """Run work on the own stream, after the current stream's earlier work and before its later work."""
        if self._stream is None:
            return work()
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            made = work()
        current.wait_stream(self._stream)
        made.record_stream(current)
        return made
