"""The files that a live session writes, in the output folder of whoever runs it."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from ...engine_runtime.live.session import Capture


def write_capture(capture: Capture) -> list[str]:
    """Write a capture's sound as FLAC, and its take beside it; returns their names."""
    import soundfile

    from ...engine_runtime.files import write_whole
    from ...engine_runtime.live.level import SAMPLE_RATE

    path, made = host.next_file("live", ".flac"), BytesIO()
    soundfile.write(made, capture.audio.T, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    write_whole(path, made.getvalue())
    take = path.with_suffix(".safetensors")
    capture.take.save(take)
    return [path.name, take.name]
