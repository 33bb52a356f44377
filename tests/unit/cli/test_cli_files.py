"""Files of the command line: written whole inside their folder or not at all, and read within bounds."""

from __future__ import annotations

import json
import os
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from ostinato.cli import main
from ostinato.cli.core_nodes import CORE_NODES, Folders, LoadAudio, next_file, use_folders, write_audio
from ostinato.cli.execute import write_images
from ostinato.cli.graph import catalogue
from ostinato.engine_runtime.errors import AudioError, FileError, InputError
from ostinato.nodes.shared import host
from typer.testing import CliRunner

from ...tensor_files import no_file_beyond
from ..refusal import check_sentence
from .toy_nodes import TOYS, api, player

SOUND = {"waveform": torch.rand(1, 2, 48_000, generator=torch.Generator().manual_seed(1)) - 0.5, "sample_rate": 48_000}
PICTURE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("write", [lambda: write_audio(SOUND, "a/x"), lambda: write_images(PICTURE, "a/x")])
def test_a_write_that_ends_early_leaves_nothing(tmp_path, write):
    with use_folders(Folders(tmp_path)):
        with no_file_beyond(1000), pytest.raises(FileError, match="cannot be written") as caught:
            write()
        check_sentence(caught.value)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        write()
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_a_full_disk_is_one_sentence(tmp_path, knows):
    knows(catalogue(TOYS, CORE_NODES))
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(player() | api(n9=("ToyDraw", {}))))
    for removed in ("3", "4", "9"):  # SaveAudio, PreviewAudio, the picture
        data = json.loads(path.read_text())
        with no_file_beyond(20):
            result = CliRunner().invoke(main.app, ["run", str(path), "--out", str(tmp_path / "out")])
        assert result.exit_code == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
        assert f"node {removed} " in result.stderr and "cannot be written" in result.stderr
        assert not [found for found in (tmp_path / "out").rglob("*") if found.is_file()]
        del data[removed]
        path.write_text(json.dumps(data))


PREFIXES = ["x" * 201, "a\0", "a\nb", "\x1b[2J", os.fsdecode(b"a\xff"), "\ud800", "\x85"]


@pytest.mark.parametrize("prefix", PREFIXES, ids=range(len(PREFIXES)))
def test_prefixes_that_no_file_should_have(tmp_path, prefix):
    with use_folders(Folders(tmp_path)), pytest.raises(InputError, match="prefix") as caught:
        next_file(prefix, ".flac")
    check_sentence(caught.value)
    assert str(caught.value).isprintable() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", PREFIXES, ids=range(len(PREFIXES)))
def test_comfyui_gets_no_such_prefix(monkeypatch, prefix):
    monkeypatch.setitem(sys.modules, "folder_paths", None)  # it is not asked
    with pytest.raises(InputError, match="prefix"):
        host.comfyui_file(prefix, ".flac")


def test_a_name_that_the_system_refuses(tmp_path):
    (tmp_path / "file").touch()
    long = "\N{HIRAGANA LETTER A}" * 100  # 300 bytes
    with use_folders(Folders(tmp_path)):
        for action in (
            lambda: write_audio(SOUND, long),
            lambda: next_file(f"{long}/x", ""),
            lambda: next_file("file/x", ""),
        ):
            with pytest.raises(FileError) as caught:
                action()
            check_sentence(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_audio_of_a_rate_that_no_flac_has(tmp_path):
    for rate in (0, 10**6):
        with use_folders(Folders(tmp_path)), pytest.raises(AudioError, match=f"{rate} samples a second"):
            write_audio(SOUND | {"sample_rate": rate}, "x")
    assert list(tmp_path.iterdir()) == []


def read(folder: Path, name: str):
    with use_folders(Folders(folder, (folder,))):
        return LoadAudio.execute(name)[0]


def flac(samples: int = 480) -> bytes:
    made = BytesIO()
    soundfile.write(made, np.full((samples, 2), 0.25, dtype=np.float32), 48_000, format="FLAC", subtype="PCM_24")
    return made.getvalue()


@pytest.mark.skipif(os.name != "posix", reason="FIFOs and names that are no text are POSIX's")
def test_audio_files_with_odd_names(tmp_path):
    name = os.fsdecode(b"\xff.wav")
    (tmp_path / name).write_bytes(flac())
    assert read(tmp_path, name)["waveform"].shape == (1, 2, 480)
    (tmp_path / "a.raw").write_bytes(flac())  # an ending that says: no header
    assert read(tmp_path, "a.raw")["waveform"].shape == (1, 2, 480)
    os.mkfifo(tmp_path / "b.wav")
    for missing in ("b.wav", "x" * 300, "a\0b", "."):
        with pytest.raises(AudioError, match="is not there"):
            read(tmp_path, missing)
