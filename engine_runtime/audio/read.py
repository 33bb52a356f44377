"""Audio files to samples, as ComfyUI's LoadAudio reads them: by FFmpeg, through PyAV.

A file from outside chooses neither what opens it nor how much is kept: only containers of sound and video are opened,
only decoders of sound run, no file or address that it names is opened, and its samples are counted as they come.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import AudioError
from ..files import open_file

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

MAX_SAMPLES = 1 << 28  # of a file, over all channels: 46 minutes of stereo at 48 kHz, 1 GiB, for a moment 2

# FFmpeg's names. Absent are the playlists and lists (hls, dash, concat, sdp, image2), which open what they name.
CONTAINERS = (
    "wav", "w64", "aiff", "au", "caf", "voc", "flac", "ogg", "mp3", "aac", "ac3", "eac3", "dts", "amr", "ape", "wv",
    "tta", "tak", "mpc", "mpc8", "dsf", "qoa", "mov", "matroska", "avi", "asf", "flv", "mpeg", "mpegts", "mxf", "nut",
)  # fmt: skip


def read_audio(path: Path, most: int = MAX_SAMPLES) -> tuple[Tensor, int]:
    """Read the first stream of sound of a file, up to where its data end, whatever its header claims.

    Args:
        path: of a file with sound, or with pictures and sound.
        most: samples over all channels.

    Returns:
        float32 samples `[C, S]`, whole numbers as shares of their range, and their rate in Hz.

    Raises:
        AudioError: for a file without sound, one that is damaged, one whose rate or channels change on the way, and
            one with more samples.
    """
    import av

    try:
        with (
            os.fdopen(open_file(path), "rb") as raw,
            av.open(_Input(raw, path.name), "r", options=_limits(), **_any_tags()) as container,
        ):
            frames = list(_checked(container, path, most))
    except av.ArgumentError:  # what FFmpeg says of a container that is not among them
        raise _unreadable(path, "it is of another kind") from None
    except av.FFmpegError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if not frames:
        raise _unreadable(path, "it has no samples")
    return torch.from_numpy(np.concatenate([values for values, _ in frames], axis=1)), frames[0][1]


class _Input:
    """Gives FFmpeg a file whose name helps to tell what it is, and whose seeks fail without an exception."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self.tell, self.name = raw.tell, name
        self._raw = raw

    def read(self, size: int) -> bytes:
        """Return at most a megabyte, for a size may be what a damaged file claims."""
        return self._raw.read(min(size, 1 << 20))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Return the new place, or FFmpeg's error where a damaged file asks for one that is none."""
        try:
            return self._raw.seek(offset, whence)
        except (OSError, ValueError):
            return -errno.EINVAL


def _checked(container: InputContainer, path: Path, most: int) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield the samples `[C, n]` of each frame, and their rate."""
    first, kept = None, 0
    for frame in _frames(container, path):
        kind = frame.sample_rate, frame.layout.nb_channels
        first, kept = first or kind, kept + frame.samples * kind[1]
        if kind != first:
            raise AudioError(
                f"{path} changes from {_told(first)} to {_told(kind)} on the way",
                "a file has one rate and as many channels all along",
                "cut it there, or convert it",
            )
        if kept > most:
            given = f"{path} has more than {most // kind[1]} samples in each of its {kind[1]} channels"
            raise AudioError(given, f"allowed are {most} in all", "cut it")
        yield _values(frame), frame.sample_rate


def _frames(container: InputContainer, path: Path) -> Iterator[AudioFrame]:
    """Decode the first stream of sound. Where files were joined, the tags of the later ones are passed over."""
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None:
        raise _unreadable(path, "no stream of sound that can be decoded")
    tag_end = 0
    for packet in container.demux(stream):
        at = packet.pos or 0
        if bytes(packet)[:3] == b"ID3":
            tag_end = at + _tag_size(bytes(packet))
        if packet.size == 0 or at >= tag_end:  # the last is empty, and asks for what the decoder still holds
            yield from packet.decode()


def _tag_size(data: bytes) -> int:
    """Return the bytes of an ID3v2 tag: ten, and four digits of seven bits (id3.org, ID3v2.4.0, 3.1)."""
    return 10 + sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(data[6:10])))


def _values(frame: AudioFrame) -> NDArray[np.float32]:
    """Return a frame's samples as `[C, n]` float32; whole numbers become shares of their range."""
    samples = frame.to_ndarray()
    if frame.format.is_packed:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 may be more than float32 holds: infinity
        values = samples.astype(np.float32)
    if samples.dtype.kind == "f":
        return values
    half = 2.0 ** (8 * samples.itemsize - 1)
    return (values - half if samples.dtype.kind == "u" else values) / np.float32(half)


def _limits() -> dict[str, str]:
    """Return FFmpeg's options for a file that is not trusted."""
    return {
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join(_decoders()),  # or pictures are decoded too while a file is opened
        "protocol_whitelist": "none",
    }


@cache
def _decoders() -> tuple[str, ...]:
    """Return the names of all decoders of sound."""
    from av.codec import Codec, codecs_available

    def kind(name: str) -> str | None:
        try:
            return Codec(name, "r").type
        except ValueError:  # it only encodes
            return None

    return tuple(sorted(name for name in codecs_available if kind(name) == "audio"))


def _any_tags() -> dict[str, Any]:
    """Return what lets a file be opened whose tags are no UTF-8; from PyAV 19 on, that needs no word."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def _told(kind: tuple[int, int]) -> str:
    return f"{kind[0]} Hz with {kind[1]} channels"


def _unreadable(path: Path, why: str) -> AudioError:
    return AudioError(
        f"{path} cannot be read as audio ({why})",
        "allowed are WAV, FLAC, OGG, MP3, M4A and others that FFmpeg reads, videos too",
        "convert it",
    )
