"""Captures of live sessions in the output folder: FLAC, latent and take, side by side under one name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine_runtime.errors import InputError
from . import host, layout

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine_runtime.live.capture import Capture
    from ...engine_runtime.live.session import LiveSession
    from ...engine_runtime.serve.keep import Keep
    from ...engine_runtime.takes.take import Log
    from .given import Audio, Latent

log = logging.getLogger(__name__)
FOLDER = "live"  # below the output folder
AUDIO, LATENT, TAKE = ".flac", ".latent", ".safetensors"
MAX_SECONDS = 61  # that are read; a session keeps 60
MAX_LATENT = 64 << 20  # bytes of a file; a minute has 0.4 MB
VALUES = "latent_tensor"  # the entry of ComfyUI's own .latent files, `[B, C, T]`


@dataclass(frozen=True)
class Kept:
    """A capture that was read; the frames of its latent are frames of latents that its take makes again."""

    audio: Audio
    latent: Latent
    take: Log


def keep_of(session: LiveSession) -> Keep:
    """Return what writes the captures and recordings of a session into the output folder of who runs the nodes."""
    from ...engine_runtime.serve.keep import Keep

    return Keep(session, write_capture, lambda: host.next_file(f"{FOLDER}/recording", AUDIO))


def write_capture(capture: Capture) -> list[Path]:
    """Write a capture; returns its files, the sound first.

    Raises:
        FileError, TakeError: where a file cannot be written.
    """
    from io import BytesIO

    import soundfile

    from ...engine_runtime.files import write_whole
    from ...engine_runtime.live.level import SAMPLE_RATE

    path, made = host.next_file(f"{FOLDER}/capture", AUDIO), BytesIO()
    soundfile.write(made, capture.audio.T, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    capture.take.save(path.with_suffix(TAKE))
    write_latent(path.with_suffix(LATENT), capture.latent)
    write_whole(path, made.getvalue())  # the last: a name is offered by its sound
    return [path, path.with_suffix(LATENT), path.with_suffix(TAKE)]


def write_latent(path: Path, latent: Tensor) -> None:
    """Write a latent `[T, C]` as ComfyUI's own nodes read it. Raises `FileError` where it cannot be written."""
    import torch
    from safetensors.torch import save

    from ...engine_runtime.files import write_whole

    version = {"latent_format_version_0": torch.zeros(0)}  # without it ComfyUI takes the values for those of images
    write_whole(path, save({VALUES: layout.to_latent([latent])["samples"], **version}))


def capture_names() -> list[str]:
    """List the captures, the newest first. Never raises, because a schema calls it."""
    try:
        found = _found()
        return sorted(found, key=lambda name: _stamp(found[name]), reverse=True)
    except Exception:  # whatever a folder does, it must not take the nodes away
        log.exception("the captures cannot be listed")
        return []


def capture_path(name: str) -> Path:
    """Return the path of a capture's sound; its other files lie beside it.

    Raises:
        InputError: for a name that is not among `capture_names`.
    """
    path = _found().get(name)
    if path is None:
        raise InputError(
            f"the capture {name!r} is not there",
            f"allowed are those in the folder {FOLDER} of the output folder, each with its latent and its take",
            "keep the last moments of a live session, or choose another",
        )
    return path


def read_capture(name: str) -> Kept:
    """Read a capture.

    Raises:
        InputError: for one that is not there, or whose latent cannot be read.
        AudioError, TakeError: for a file that is damaged or too large.
    """
    from ...engine_runtime.takes.take import Log

    path = capture_path(name)
    return Kept(_audio(path), _latent(path.with_suffix(LATENT)), Log.load(path.with_suffix(TAKE)))


def _found() -> dict[str, Path]:
    """Find the captures by name; folders named first go before others."""
    found: dict[str, Path] = {}
    for root in host.output_folders():
        for path in (root / FOLDER).glob(f"*{AUDIO}"):
            if path.with_suffix(LATENT).is_file() and path.with_suffix(TAKE).is_file():
                found.setdefault(path.stem, path)
    return found


def _stamp(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name


def _audio(path: Path) -> Audio:
    from ...engine_runtime.audio.read import read_audio
    from ...engine_runtime.live.level import SAMPLE_RATE

    samples, rate = read_audio(path, 2 * MAX_SECONDS * SAMPLE_RATE)
    return layout.to_audio(samples[None], rate)


def _latent(path: Path) -> Latent:
    from ...engine_runtime.tensor_file import open_tensors

    file = open_tensors(path, most=MAX_LATENT)
    if VALUES not in file.keys():
        raise InputError(f"{path} holds no latent", f"its entry is {VALUES}", "copy it again")
    samples = file.get_tensor(VALUES).clone()
    if samples.ndim != 3 or samples.shape[0] != 1 or 0 in samples.shape or not samples.isfinite().all():
        raise InputError(
            f"the latent in {path} has shape {list(samples.shape)} or is not finite",
            "a capture's is [1, channels, frames]",
            "copy it again",
        )
    return layout.to_latent([samples[0].T])
