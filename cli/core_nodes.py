"""ComfyUI's nodes that load, save and preview audio, as far as shared workflows need them on the command line."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile
import torch

from ..engine_runtime.audio.read import read_audio
from ..engine_runtime.errors import AudioError, InputError
from ..engine_runtime.files import refused_write, write_whole
from ..nodes.shared.comfy import io
from ..nodes.shared.file_names import fill_in
from ..nodes.shared.host import check_prefix
from . import lossy
from .core_values import VALUES

if TYPE_CHECKING:
    from ..nodes.shared.given import Audio

FLAC_CHANNELS = 8


@dataclass(frozen=True)
class Folders:
    """The folder that files are written to, and the folders that inputs are looked for in, in order."""

    out: Path
    inputs: tuple[Path, ...] = ()


_folders = Folders(Path("."))


@contextmanager
def use_folders(folders: Folders) -> Iterator[None]:
    global _folders
    before, _folders = _folders, folders
    try:
        yield
    finally:
        _folders = before


def find_input(name: str) -> Path | None:
    """Find the file that a LoadAudio widget names. The editor may add the folder's kind, as in "a.wav [input]"."""
    name = re.sub(r" \[(input|output|temp)\]$", "", name)
    return next((folder / name for folder in _folders.inputs if os.path.isfile(folder / name)), None)


def check_input(inputs: Mapping[str, Any]) -> None:
    """Raise `AudioError` where the file that a LoadAudio names is not there."""
    if find_input(inputs["audio"]) is None:
        raise AudioError(*_not_found(inputs["audio"]))


def next_file(prefix: str, suffix: str) -> Path:
    """Return OUT/prefix_00001_.flac, or the number after the highest one there, and make its folder.

    Raises:
        InputError: for a prefix that leads out of the folder, or that no file can have.
        FileError: where the folder cannot be made.
    """
    check_prefix(prefix)
    target = _folders.out / _fill_in_date(prefix)
    root = _folders.out.resolve()
    if not target.name or not target.resolve().is_relative_to(root) or target.resolve() == root:
        raise InputError(
            f"the file name prefix is {prefix!r}",
            f"allowed is a name inside the output folder {_folders.out}",
            "use a relative name without '..'",
        )
    pattern = re.compile(re.escape(target.name) + r"_(\d{1,18})_?\.", re.IGNORECASE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(m[1]) for m in (pattern.match(entry.name) for entry in target.parent.iterdir()) if m]
    except OSError as error:
        raise refused_write(target.parent, error) from error
    return target.with_name(f"{target.name}_{max(numbers, default=0) + 1:05}_{suffix}")


def output_folders() -> list[Path]:
    """Return the folders in which files that were written are found again: the output folder, then the inputs."""
    return [_folders.out, *_folders.inputs]


def keep(made: BytesIO, prefix: str, suffix: str) -> str:
    """Write a file as the next of its name, whole or not at all, and return its path. Raises `FileError`."""
    path = next_file(prefix, suffix)
    write_whole(path, made.getbuffer())
    return str(path)


def write_audio(audio: Audio, prefix: str) -> list[str]:
    """Write one 24-bit FLAC per item of `audio["waveform"]` `[B, C, S]` and return the paths.

    Raises:
        AudioError: for channels, samples or a rate that FLAC cannot hold, and for NaN or infinity.
        FileError: where it cannot be written.
    """
    rate, written = int(audio["sample_rate"]), []
    for item in _items(audio, "FLAC", FLAC_CHANNELS):
        made = BytesIO()
        try:
            soundfile.write(made, item.T.numpy(), rate, format="FLAC", subtype="PCM_24")
        except soundfile.SoundFileError as error:
            given = f"the audio to save, of {rate} samples a second, cannot be a FLAC file ({error})"
            raise AudioError(given, "allowed are 1 to 655350 samples a second", "resample it") from error
        written.append(keep(made, prefix, ".flac"))
    return written


def write_lossy(audio: Audio, prefix: str, kind: str, quality: str) -> list[str]:
    """Write one MP3 or Opus file per item, as `write_audio` does."""
    items = _items(audio, kind, lossy.CHANNELS)
    return [keep(lossy.encode(one, int(audio["sample_rate"]), kind, quality), prefix, f".{kind}") for one in items]


def _items(audio: Audio, kind: str, most: int) -> torch.Tensor:
    """Return the samples `[B, C, S]` of audio that a kind of file with at most `most` channels can hold."""
    channels, samples = audio["waveform"].shape[-2:]
    if not 1 <= channels <= most or samples == 0:
        raise AudioError(
            f"the audio to save has {channels} channels and {samples} samples",
            f"a file of the kind {kind} holds 1 to {most} channels and at least one sample",
            "give it other audio",
        )
    if not torch.isfinite(audio["waveform"]).all():
        raise AudioError("the audio to save has NaN or infinite samples", "samples are numbers", "lower the guidance")
    return audio["waveform"].detach().float().cpu()


def _not_found(name: str) -> tuple[str, str, str]:
    folders = ", ".join(str(folder) for folder in _folders.inputs) or "no folder"
    return f"the audio file {name!r} is not there", f"it was looked for in {folders}", "give its folder with --input"


def _fill_in_date(prefix: str) -> str:
    for word, code in zip(("year", "month", "day", "hour", "minute", "second"), "YmdHMS", strict=True):
        prefix = prefix.replace(f"%{word}%", time.strftime(f"%{code}"))
    return prefix


class LoadAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadAudio",
            display_name="Load Audio",
            category="audio",
            description="Reads an audio file.",
            inputs=[io.String.Input("audio")],
            outputs=[io.Audio.Output()],
        )

    @classmethod
    def validate_inputs(cls, audio: str | None) -> bool | str:
        if audio is None or find_input(audio) is not None:
            return True
        return "; ".join(_not_found(audio)) + "."

    @classmethod
    def execute(cls, audio: str) -> io.NodeOutput:
        path = find_input(audio)
        if path is None:
            raise AudioError(*_not_found(audio))
        samples, rate = read_audio(path)
        return io.NodeOutput({"waveform": samples[None], "sample_rate": rate})


class SaveAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveAudio",
            display_name="Save Audio (FLAC)",
            category="audio",
            description="Writes FLAC files into the output folder.",
            inputs=[io.Audio.Input("audio"), io.String.Input("filename_prefix", default="audio/ComfyUI")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, audio: Audio, filename_prefix: str) -> io.NodeOutput:
        return io.NodeOutput(ui={"files": write_audio(audio, fill_in(filename_prefix, cls.hidden))})


class _SaveLossy(io.ComfyNode):
    kind: str

    @classmethod
    def execute(cls, audio: Audio, filename_prefix: str, quality: str) -> io.NodeOutput:
        prefix = fill_in(filename_prefix, cls.hidden)
        return io.NodeOutput(ui={"files": write_lossy(audio, prefix, cls.kind, quality)})


def _save_lossy(name: str, kind: str, qualities: list[str], quality: str) -> io.Schema:
    return io.Schema(
        node_id=name,
        display_name=f"Save Audio ({kind})",
        category="audio",
        description=f"Writes {kind} files into the output folder.",
        inputs=[
            io.Audio.Input("audio"),
            io.String.Input("filename_prefix", default="audio/ComfyUI"),
            io.Combo.Input("quality", options=qualities, default=quality),
        ],
        is_output_node=True,
    )


class SaveAudioMP3(_SaveLossy):
    kind = "mp3"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _save_lossy("SaveAudioMP3", "MP3", [lossy.BEST, "128k", "320k"], lossy.BEST)


class SaveAudioOpus(_SaveLossy):
    kind = "opus"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _save_lossy("SaveAudioOpus", "Opus", ["64k", "96k", "128k", "192k", "320k"], "128k")


class PreviewAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewAudio",
            display_name="Preview Audio",
            category="audio",
            description="Writes FLAC files named preview into the output folder.",
            inputs=[io.Audio.Input("audio")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, audio: Audio) -> io.NodeOutput:
        return io.NodeOutput(ui={"files": write_audio(audio, "preview")})


CORE_NODES: list[type[io.ComfyNode]] = [LoadAudio, SaveAudio, SaveAudioMP3, SaveAudioOpus, PreviewAudio, *VALUES]
