"""Tests whether a model plays within so much memory: loaded, a prompt encoded, a full ring, its latents decoded.

Everything stays on the device at once, as where no host moves weights away. PyTorch's allocator is capped, so that what
does not fit fails as on a card of that size.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..audio.decode import decode
from ..audio.live_vae import LiveVae
from ..config import Sampling, StreamConfig
from ..constants import KINDS
from ..device.memory import guarded
from ..engines.contract import Engine
from ..errors import EngineError, InputError, MemoryShortage, check_choice, check_range
from ..live.pace import SIZES
from ..models.conditioning import encode_prompt
from ..models.engines import torch_engine
from ..models.loading import Model, load
from ..models.prompt import Prompt
from ..models.sized import sized_model
from ..profile.drive import awake, driven
from ..stream.finished import Finished
from ..stream.request import Condition, Request
from .case import AHEAD, GIB, OUTSIDE, WINDOW_SECONDS, Case
from .origin import origin
from .subject import ALL_SIZES, TINY

ROUNDS = 3  # generations that each slot makes: the second ones are captured, the third ones replayed
LEAST, MOST = 1.0, 1024.0  # GiB that may be asked for
TEXT = Prompt("warm ambient piano, soft pads, slow", "[instrumental]", bpm=90, key="A minor", time_signature="4")
PARTS = ("text_encoder", "condition_encoder", "vae", "transformer")  # of the pipeline


@dataclass(frozen=True)
class Asked:
    """Says what is to fit.

    Attributes:
        gigabytes: of the card, GiB; `outside` of them are kept from PyTorch.
        case: what is played; its tokens are the prompt's.
        longer: seconds of music that are tried afterwards, at the largest depth that fits.
        window: seconds that are decoded at a time.
    """

    gigabytes: float
    case: Case
    longer: float = 240.0
    window: float = WINDOW_SECONDS
    outside: float = OUTSIDE

    def __post_init__(self) -> None:
        check_range("gigabytes", self.gigabytes, LEAST, MOST, "give those of the card")
        check_range("the gigabytes outside", self.outside, 0.0, self.gigabytes / 2, "the driver and graphs take some")
        _ = replace(self.case, seconds=self.longer).frames

    @property
    def cap(self) -> int:
        """Return the bytes that PyTorch may take."""
        return round((self.gigabytes - self.outside) * GIB)


class Meter:
    """Measures what each part of the work takes of a device's memory; on the CPU only its time.

    Attributes:
        parts: `name`, `seconds`, and on a GPU `held_bytes` (of tensors, at its end), `peak_bytes` (most of tensors in
            it), `reserved_bytes` (most that PyTorch held for them) and `device_bytes` (in use on the whole device, at
            its end); `shortage` where memory ran out in it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.parts = device, list[dict[str, Any]]()
        self._cuda = device.type == "cuda"

    @contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        """Measure a block; what it yields takes further figures.

        Raises:
            MemoryShortage: where memory ran out in it.
        """
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        found: dict[str, Any] = {"name": name}
        self.parts.append(found)
        begin = time.perf_counter()
        try:
            with guarded(f"{name} found no room on {self.device}", "it must fit beside the rest", "use a larger card"):
                yield found
        except MemoryShortage as error:
            found["shortage"] = str(error)
            raise
        finally:
            found["seconds"] = time.perf_counter() - begin
            if self._cuda:
                found |= self._bytes()

    def _bytes(self) -> dict[str, int]:
        free, total = torch.cuda.mem_get_info(self.device)
        return {
            "held_bytes": torch.cuda.memory_allocated(self.device),
            "peak_bytes": torch.cuda.max_memory_allocated(self.device),
            "reserved_bytes": torch.cuda.max_memory_reserved(self.device),
            "device_bytes": total - free,
        }

    @property
    def most(self) -> int | None:
        """Return the most bytes in use on the whole device at the end of any part; None on the CPU."""
        return max((part["device_bytes"] for part in self.parts), default=None) if self._cuda else None


def fits(size: str, kind: str, device: torch.device, dtype: torch.dtype, asked: Asked, command: str = "") -> dict:
    """Load a model of a size with random weights, play and decode under the cap; returns the figures as JSON data.

    Args:
        size: one of `subject.ALL_SIZES`; all but `tiny` have the text encoder and the VAE of released models.
        kind: of the engine, one of `KINDS`.
        command: what to call it.

    Raises:
        InputError: for more memory than the device has, and for what an engine does not take.
        EngineError: for an engine that does not run here, or sound that is no numbers.
    """
    check_choice("the size", size, ALL_SIZES)
    check_choice("the kind of engine", kind, KINDS)
    meter, weights, longer = Meter(device), dict[str, int](), list[dict[str, Any]]()
    made_on, tokens, short = origin(device, command), None, True
    try:
        with capped(device, asked.cap):
            with meter.part("load"):
                model = load("random", device, dtype) if size == TINY else sized_model(size, dtype, device, whole=True)
            weights = {name: _bytes_of(getattr(model.pipe, name)) for name in PARTS}
            with meter.part("engine"):  # with its check against eager
                engine = torch_engine(model, kind)
            tokens = played(meter, model, engine, asked.case, asked.window)
            short = False
            longer += try_longer(meter, model, engine, asked)
    except MemoryShortage:
        pass  # the part says so
    within = None if meter.most is None else meter.most <= asked.gigabytes * GIB
    return {
        **made_on,
        "size": size,
        "engine": kind,
        "case": {**asked.case.as_json(), "tokens": tokens},
        "gigabytes": asked.gigabytes,
        "cap_bytes": asked.cap if device.type == "cuda" else None,
        "fits": False if short else within,
        "device_bytes": meter.most,
        "weights_bytes": weights,
        "parts": meter.parts,
        "longer": longer,
    }


def try_longer(meter: Meter, model: Model, engine: Engine, asked: Asked) -> list[dict[str, Any]]:
    """Try longer music from the asked depth down to 1, until it fits."""
    tried = list[dict[str, Any]]()
    for depth in range(asked.case.depth, 0, -1):
        gc.collect()
        if meter.device.type == "cuda":
            torch.cuda.empty_cache()  # what the last ring left
        case, fit = replace(asked.case, seconds=asked.longer, depth=depth), True
        try:
            played(meter, model, engine, case, asked.window)
        except MemoryShortage:
            fit = False
        tried.append({"seconds": asked.longer, "depth": depth, "fits": fit})
        if fit:
            break
    return tried


def played(meter: Meter, model: Model, engine: Engine, case: Case, window: float) -> int:
    """Encode a prompt, play a ring that stays full, and decode while the ring is still there, first as the decode node
    does and then as a live session does. Returns the prompt's tokens.
    """
    name, done = f"depth {case.depth}, {case.seconds:g} s", list[Finished]()
    with meter.part(f"prompt, {name}"):
        condition = _guided(encode_prompt(model, replace(TEXT, seconds=case.seconds)), case)

    def request(i: int) -> Request:
        return Request(condition, Sampling(case.steps, seed=i), case.guidance)

    config = StreamConfig(depth=case.depth, guidance=case.row_mode, tokens=condition.length)
    with ExitStack() as stack:
        with meter.part(f"play, {name}") as found:
            stack.enter_context(awake(engine))
            drive = stack.enter_context(driven(engine, config, request))
            ticks = case.whole((ROUNDS + 1) * case.steps)  # the slots begin apart, within the first round
            laps = drive.play(ticks, AHEAD, before=drive.fill, after=lambda new: _keep(done, new))
            found |= {"tick_ms": statistics.median(laps.ms[-case.steps :]), "finished": sum(laps.finished)}
        latent, frames = done[-1].take()[None], model.spec.frames_of(window)
        with meter.part(f"decode, {name}"):
            _checked(decode(model.pipe.vae, latent, frames))
        with meter.part(f"live decode, {name}"):
            live = LiveVae(model.pipe.vae)
            _checked(decode(live, latent, SIZES[-1]))
            live.rest()
    return condition.tokens.shape[0]


def _keep(done: list[Finished], new: list[Finished]) -> None:
    """Keep the newest latent, and let go of the others as a player does."""
    for one in new:
        done[:] = [one]


def _checked(audio: Tensor) -> None:
    if not bool(audio.isfinite().all()):
        raise EngineError("the sound holds NaN or infinite values", "finite ones are expected", "use another precision")


def _guided(condition: Condition, case: Case) -> Condition:
    """Give a condition the negative that guidance needs, where its model is a turbo one without."""
    if case.row_mode == "off" or condition.null_tokens is not None:
        return condition
    return replace(condition, null_tokens=torch.zeros_like(condition.tokens))


@contextmanager
def capped(device: torch.device, most: int) -> Iterator[None]:
    """Let PyTorch take so many bytes of a GPU inside the block; on the CPU do nothing.

    Raises:
        InputError: for more than the GPU has.
    """
    if device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if most > total:
        given = f"{most / GIB:.1f} GiB are to be taken of a GPU that has {total / GIB:.1f}"
        raise InputError(given, "a cap below what there is can be tried", "give fewer gigabytes")
    torch.cuda.set_per_process_memory_fraction(most / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _bytes_of(part: nn.Module | None) -> int:
    return 0 if part is None else sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))


def text(found: dict[str, Any]) -> str:
    """Describe the figures of `fits`."""
    verdict = {True: "fits", False: "does NOT fit", None: "ran; a CPU has no cap"}[found["fits"]]
    case = found["case"]
    lines = [
        f"{found['size']} {found['engine']}, depth {case['depth']}, {case['seconds']:g} s, guidance {case['cfg']}, "
        f"in {found['gigabytes']:g} GB: {verdict}"
    ]
    lines += [f"{name}: {n / 1e9:.2f} GB of weights" for name, n in found["weights_bytes"].items()]
    for part in found["parts"]:
        peaks = [f"{part[key] / 1e9:.2f} GB {word}" for key, word in SHOWN.items() if key in part]
        said = filter(None, [f"{part['seconds']:.1f} s", *peaks, part.get("shortage")])
        lines.append(f"{part['name']}: {', '.join(said)}")
    for one in found["longer"]:
        lines.append(f"{one['seconds']:g} s at depth {one['depth']}: {'fits' if one['fits'] else 'does not fit'}")
    return "\n".join(lines)


SHOWN = {"peak_bytes": "of tensors at most", "reserved_bytes": "reserved", "device_bytes": "of the device in use"}
