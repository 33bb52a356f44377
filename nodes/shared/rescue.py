"""Keeps what was finished when Cancel is pressed: its sound where the model's VAE is at hand, else its latent.

ComfyUI runs no node after a Cancel, so that finished clips would be lost; they go into a folder of the output folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ...engine_runtime.errors import OstinatoError
from ...engine_runtime.files import write_whole
from . import host, live_files

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine_runtime.engines.contract import Engine
    from ...engine_runtime.models.loading import Model
    from .comfy import io

log = logging.getLogger(__name__)
FOLDER = "cancelled"  # below the output folder
WINDOW = 10.0  # seconds decoded at a time; a second Cancel comes between them

_models: WeakValueDictionary[str, Model] = WeakValueDictionary()  # by identity


def know(model: Model) -> None:
    """Remember a loaded model, whose VAE makes the sound of what its engines play."""
    _models[model.identity] = model


def keeps(engine: Engine, hidden: io.HiddenHolder) -> Callable[[Sequence[Tensor]], None]:
    """Return the function that a node calls with the latents that were finished, `[T, C]` each, when it is stopped."""
    return lambda latents: _keep_latents(latents, engine, hidden.unique_id)


def _keep_latents(latents: Sequence[Tensor], engine: Engine, node_id: str | None) -> None:
    """Save latents, and say so under the node. A second Cancel ends it."""
    model = None if engine.model is None else _models.get(engine.model.identity)
    if model is None:
        _keep([partial(_write_latent, latent) for latent in latents], node_id)
        return
    from ...engine_runtime.audio.decode import decode_clips

    model.ready()
    vae, spec = model.pipe.vae, model.spec

    def sound(latent: Tensor) -> Path:
        audio = decode_clips(vae, [latent], spec.frames_of(WINDOW), host.check_cancelled)
        return _write_audio(audio[0], spec.sample_rate)

    _keep([partial(sound, latent) for latent in latents], node_id)


def keep_audio(clips: Sequence[Tensor], rate: int, node_id: str | None) -> None:
    """Save finished clips, `[A, samples]` each, and say so under the node."""
    _keep([partial(_write_audio, clip, rate) for clip in clips], node_id)


def _keep(writes: Sequence[Callable[[], Path]], node_id: str | None) -> None:
    """Write files one after another; what fails is said, for the Cancel itself must go on."""
    kept: list[str] = []
    for write in writes:
        try:
            kept.append(write().name)
        except (OstinatoError, OSError) as error:
            log.warning("what was finished before the cancel is not saved: %s", error)
            host.show_text(f"cancelled; what was finished is not saved: {error}", node_id)
            return
        host.show_text(f"cancelled; finished and saved in {FOLDER}: {', '.join(kept)}", node_id)


def _write_latent(latent: Tensor) -> Path:
    path = host.next_file(f"{FOLDER}/clip", live_files.LATENT)
    live_files.write_latent(path, latent)
    return path


def _write_audio(audio: Tensor, rate: int) -> Path:
    import soundfile

    path, made = host.next_file(f"{FOLDER}/clip", live_files.AUDIO), BytesIO()
    soundfile.write(made, audio.detach().float().cpu().T.numpy(), rate, format="FLAC", subtype="PCM_24")
    write_whole(path, made.getvalue())
    return path
