"""Finds the workflow that ComfyUI put into a picture or a sound file that it wrote."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..engine_runtime.files import open_file
from .graph import WorkflowError

PNG, WEBP = b"\x89PNG\r\n\x1a\n", b"WEBP"  # WebP's name stands after 8 bytes
SOUNDS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
NAMES = ("workflow", "prompt")  # the editor's form before the API form, as the editor opens such files


def embedded(path: Path) -> str | None:
    """Return the JSON inside a PNG, WebP, FLAC, Ogg or MP3 file; None for any other file.

    Raises:
        OSError, InputError: as `open_file`.
        WorkflowError: for such a file that is damaged or has no workflow.
    """
    with os.fdopen(open_file(path), "rb") as file:
        begin = file.read(12)
        file.seek(0)
        picture = begin.startswith(PNG) or begin[8:] == WEBP
        if not picture and not begin.startswith(SOUNDS):
            return None
        try:
            tags = _picture(file) if picture else _sound(file)
        except (OSError, ValueError, SyntaxError, struct.error, zlib.error) as error:
            raise WorkflowError(
                f"{path} cannot be read ({error})",
                "allowed is a whole PNG, WebP, FLAC, Ogg or MP3 file",
                "copy it again",
            ) from None
    found = next((tags[name] for name in NAMES if tags.get(name)), None)
    if found is None:
        raise WorkflowError(
            f"{path} holds no workflow",
            "allowed are files as ComfyUI wrote them; other programs leave the workflow out",
            "give the file as it was written, or the workflow's JSON",
        )
    return found


def _picture(file: IO[bytes]) -> Mapping[str, Any]:
    """Return the texts of a PNG that stand before its pixels, or of a WebP's EXIF, without decoding the pixels."""
    from PIL import Image

    try:
        opened = Image.open(file, formats=("PNG", "WEBP"))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    with opened as image:
        texts = {str(name).lower(): str(text) for name, text in image.info.items() if isinstance(text, str)}
        if image.format == "WEBP":  # there ComfyUI writes "workflow:{...}" into any field
            fields = [text.partition(":") for text in image.getexif().values() if isinstance(text, str)]
            texts |= {name.lower(): text for name, _, text in fields}
        return texts


def _sound(file: IO[bytes]) -> Mapping[str, str]:
    """Return the tags of a sound file and of its streams."""
    import av

    try:
        with av.open(file, metadata_errors="replace") as container:
            tags = [container.metadata, *(stream.metadata for stream in container.streams)]
            return {name.lower(): text for metadata in reversed(tags) for name, text in metadata.items()}
    except av.FFmpegError as error:
        raise ValueError(str(error)) from None
