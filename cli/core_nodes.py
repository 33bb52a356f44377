"""ComfyUI's own LoadAudio, SaveAudio and PreviewAudio, as far as shared workflows need them on the command line."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch

from ..engine_runtime.errors import AudioError, InputError
from ..nodes.comfy import io

FLAC_CHANNELS = 8


@dataclass(frozen=True)
class Folders:
    """Where files are written, and where they are looked for, in order."""

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
    """The file a LoadAudio widget names; the editor may add which of its folders it lies in, as in "a.wav [input]"."""
    name = re.sub(r" \[(input|output|temp)\]$", "", name)
    return next((folder / name for folder in _folders.inputs if (folder / name).is_file()), None)


def next_file(prefix: str, suffix: str) -> Path:
    """OUT/prefix_00001_.flac, or the number after the highest one there; makes the folder."""
    target = _folders.out / _fill_in_date(prefix)
    root = _folders.out.resolve()
    if not target.name or not target.resolve().is_relative_to(root) or target.resolve() == root:
        raise InputError(
            f"the file name prefix is {prefix!r}",
            f"allowed is a name inside the output folder {_folders.out}",
            "use a relative name without '..'",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(re.escape(target.name) + r"_(\d+)_?\.", re.IGNORECASE)
    numbers = [int(m[1]) for m in (pattern.match(entry.name) for entry in target.parent.iterdir()) if m]
    return target.with_name(f"{target.name}_{max(numbers, default=0) + 1:05}_{suffix}")


def write_audio(audio: dict[str, Any], prefix: str) -> list[str]:
    """One FLAC (24 bit) per batch item of `audio["waveform"]` [B, C, S]."""
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    channels, samples = waveform.shape[-2:]
    if not 1 <= channels <= FLAC_CHANNELS or samples == 0:
        raise AudioError(
            f"the audio to save has {channels} channels and {samples} samples",
            f"a FLAC file holds 1 to {FLAC_CHANNELS} channels and at least one sample",
            "give it other audio",
        )
    if not torch.isfinite(waveform).all():
        raise AudioError("the audio to save has NaN or infinite samples", "samples are numbers", "lower the guidance")
    written = []
    for item in waveform.detach().float().cpu():
        path = next_file(prefix, ".flac")
        soundfile.write(path, item.T.numpy(), rate, format="FLAC", subtype="PCM_24")
        written.append(str(path))
    return written


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
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path} cannot be read as audio ({error})",
                "allowed are WAV, FLAC, OGG, MP3 and what else libsndfile reads",
                "convert it",
            ) from None
        return io.NodeOutput({"waveform": torch.from_numpy(samples.T.copy())[None], "sample_rate": int(rate)})


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
    def execute(cls, audio: dict[str, Any], filename_prefix: str) -> io.NodeOutput:
        return io.NodeOutput(ui={"files": write_audio(audio, filename_prefix)})


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
    def execute(cls, audio: dict[str, Any]) -> io.NodeOutput:
        return io.NodeOutput(ui={"files": write_audio(audio, "preview")})


CORE_NODES: list[type[io.ComfyNode]] = [LoadAudio, SaveAudio, PreviewAudio]
