"""The check of a plan: opens it on this GPU and compares it with PyTorch at every corner of its profiles."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..files.sidecar import Expect, Sidecar

if TYPE_CHECKING:
    import torch

    from ...engines.profiles import Profile
    from ...engines.prove import Corner, Proof
    from ...models.loading import Model
    from ..play.engine import TrtEngine
    from ..play.room import MakeRoom
    from ..play.tensorrt import Opened
    from ..play.vae import TrtVae

WINDOW = 250  # frames that the reference VAE decodes at a time, to limit its memory
LEVEL = 0.1  # RMS of the audio that an encoder is checked with; that of music


def compare(
    sidecar: Sidecar,
    place: Expect,
    device: torch.device,
    read: Callable[[Expect], bytes],
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    model: Model | None = None,
    make_room: MakeRoom | None = None,
    engine: Opened | None = None,
) -> dict[str, Any]:
    """Compare a plan with PyTorch and return the figures of all profiles, as a sidecar keeps them.

    Args:
        sidecar: of the plan.
        place: the library, and the GPU where there is one.
        device: to run on.
        read: returns the bytes of the plan, given what the engine must be; see `plan.read_plan`. The library is not
            loaded before.
        seed: of the inputs.
        tell: called with what is being done.
        model: to compare with, left unchanged; None, or one in a coarser precision, loads the one the sidecar's spec
            names.
        make_room: frees bytes on the device before something large is put there.
        engine: the plan where it is open already; its bytes are then not read.

    Raises:
        Refused: with the figures, when the engine differs from the reference.
        MemoryShortage: when there is no room for both.
        OstinatoError: when the model or the plan cannot be opened, and whatever `read` raises.
    """
    from ...device.memory import guarded
    from ..export.record import PRECISIONS, weights_digest
    from ..play.tensorrt import tensorrt

    kind, precision = sidecar.export["kind"], sidecar.spec.precision
    with guarded(
        f"the check of {sidecar.spec.name} found no room",
        f"the engine at its largest sizes, and its model beside it, must fit on {device}",
        "unload other models, or build an engine with fewer rows or seconds at most",
    ):
        part = _part(sidecar, model, tell)
        weights = weights_digest(kind, part, precision)

        def header_problem(head: bytes) -> str | None:  # loads the library only once the file is read
            return tensorrt(sidecar.flavor).header_problem(head)

        data = read(replace(place, weights=weights, header_problem=header_problem))
        tell("comparing with eager")
        reference = beside(part, device, PRECISIONS[precision], make_room)
        del part
        opened: Any
        with nullcontext(engine) if engine is not None else _opened(sidecar, data, device, make_room) as opened:
            proofs = (_decoder if kind == "decoder" else _vae)(opened, reference, f"check:{weights[:16]}", seed)
    return joined([proof.as_json() for proof in proofs])


def this_gpu() -> torch.device:
    """Return the current CUDA device."""
    from ...device.gpu import current

    return current()


def joined(proofs: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the proofs of several profiles into one with all their corners."""
    return {**proofs[0], "corners": [corner for proof in proofs for corner in proof["corners"]]}


def beside(module: Any, device: torch.device, dtype: torch.dtype, make_room: MakeRoom | None) -> Any:
    """Copy a module to a device and dtype, leaving it unchanged; tensors that are there already are shared."""
    import torch

    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    wanted = sum(t.numel() * dtype.itemsize for t in tensors.values() if t.device != device or t.dtype != dtype)
    if make_room is not None and wanted:
        make_room(wanted)
    plain = [t for part in module.modules() for t in vars(part).values() if isinstance(t, torch.Tensor)]
    memo: dict[int, Any] = {id(t): t.detach() for t in plain}  # weights that a hook computes at every call
    for number, tensor in tensors.items():
        moved = tensor.detach().to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        memo[number] = torch.nn.Parameter(moved, False) if isinstance(tensor, torch.nn.Parameter) else moved
    return copy.deepcopy(module, memo)


def _part(sidecar: Sidecar, model: Model | None, tell: Callable[[str], None]) -> Any:
    import torch

    from ..export.record import PRECISIONS
    from ..export.source import part_of

    spec = sidecar.spec
    if model is not None:
        part = model.pipe.transformer if sidecar.export["kind"] == "decoder" else model.pipe.vae
        if part.dtype in (torch.float32, PRECISIONS[spec.precision]):
            return part
    tell(f"loading {spec.model or spec.size}")
    return part_of(spec)


@contextmanager
def _opened(sidecar: Sidecar, data: bytes, device: torch.device, make_room: MakeRoom | None) -> Iterator[Opened]:
    from ..play.tensorrt import tensorrt

    library = tensorrt(sidecar.flavor)
    load = library.load if sidecar.export["kind"] == "decoder" else library.load_vae
    engine = load(data, sidecar, device, make_room)
    try:
        yield engine
    finally:
        library.release(engine)


def _decoder(engine: TrtEngine, transformer: Any, name: str, seed: int) -> list[Proof]:
    from ...engines.eager import EagerEngine
    from ...engines.prove import prove

    reference = EagerEngine(transformer, name)
    return [prove(engine, reference, profile, seed) for profile in engine.sidecar.profiles]


def _vae(engine: TrtVae, vae: Any, name: str, seed: int) -> list[Proof]:
    """Check a VAE by the decoder's bounds: a relative L2 of 2e-3 is 54 dB below the signal."""
    import torch

    from ...engines.prove import concluded

    reference = f"eager:{name}:{vae.dtype}:{engine.device}"
    # cuDNN uses TF32 products by default: 10 bits of mantissa are no reference
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        figures = (list(_vae_corners(engine, vae, profile, seed)) for profile in engine.sidecar.profiles)
        return [concluded(engine.identity, reference, engine.device, seed, engine.dtype, one) for one in figures]


def _vae_corners(engine: TrtVae, vae: Any, profile: Profile, seed: int) -> Iterator[Corner]:
    """Compare on normal latents, or on noise as loud as music; the reference takes one clip at a time, to limit its
    memory."""
    import torch

    from ...audio.decode import decode, hop_of
    from ...engines.prove import compared, corners

    generator = torch.Generator().manual_seed(seed)
    for at in corners(profile):
        _, clips, frames, _, _ = at
        if engine.sidecar.export["kind"] == "vae_decoder":
            channels = engine.config.decoder_input_channels
            latents = torch.randn(clips, frames, channels, generator=generator).to(engine.device)
            got = engine(latents.mT)
            want = torch.cat([decode(vae, clip[None], WINDOW) for clip in latents])
        else:
            shape = clips, engine.config.audio_channels, frames * hop_of(engine)
            audio = LEVEL * torch.randn(shape, generator=generator).to(engine.device)
            got = engine(audio)
            want = torch.cat([vae.encode(clip[None]).latent_dist.mean for clip in audio])
        yield compared(at, got, want)
