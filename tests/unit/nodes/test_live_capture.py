"""A capture of a live session comes back into the graph as it was, and its take plays again bit by bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ostinato.cli.core_nodes import Folders, next_file, output_folders, use_folders
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.errors import InputError, OstinatoError
from ostinato.engine_runtime.live.capture import Capture
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.takes.replay import replay
from ostinato.nodes.live_capture import LiveCapture
from ostinato.nodes.shared import host, live_files

from ...ear import Ear, turn
from ...helpers import StandIn, made_up

ENGINE = StandIn()


@pytest.fixture(scope="module")
def captured(turbo: Model) -> Capture:
    """Two seconds of a session whose knob was turned."""
    session = LiveSession(
        "test capture", Score(ENGINE, turbo.pipe.vae, made_up(0, 50, guided=False), Sampling(4), depth=2)
    )
    try:
        ear = Ear(session)
        session.start()
        for change in (1, 2):
            ear.until(ear.played(change))
            turn(session, change, velocity_scale=1.0 - 0.1 * change)
        ear.until(ear.played(4.0))
        return session.capture(seconds=2.0)
    finally:
        session.close()


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    with use_folders(Folders(tmp_path)), host.use(host.Host(next_file=next_file, output_folders=output_folders)):
        yield tmp_path


def test_it_comes_back_as_it_was_and_plays_again(out: Path, captured: Capture) -> None:
    names = [path.name for path in live_files.write_capture(captured)]
    assert names == ["capture_00001_.flac", "capture_00001_.latent", "capture_00001_.safetensors"]
    assert sorted(path.name for path in (out / "live").iterdir()) == names
    name = LiveCapture.GET_SCHEMA().inputs[0].options[0]
    assert LiveCapture.validate_inputs(capture=name) is True
    audio, latent, take = LiveCapture.execute(name).args
    assert audio["sample_rate"] == 48_000 and audio["waveform"].shape == (1, 2, 96_000)
    assert np.abs(audio["waveform"][0].numpy() - captured.audio).max() < 1e-4
    assert torch.equal(latent["samples"][0].T, captured.latent)
    again = replay(take, ENGINE)
    assert again.differing == [] and len(again.latents) >= len(take.latents) > 0
    made = torch.cat(again.latents)
    assert all(bool((made == frame).all(dim=1).any()) for frame in latent["samples"][0].T)


def test_the_newest_is_first_and_what_is_not_whole_is_not_offered(out: Path, captured: Capture) -> None:
    for age in (30, 20, 10):
        sound = live_files.write_capture(captured)[0]
        os.utime(sound, (1e9 - age, 1e9 - age))
    (out / "live" / "capture_00002_.latent").unlink()
    (out / "live" / "recording_00001_.flac").write_bytes(b"")
    assert live_files.capture_names() == ["capture_00003_", "capture_00001_"]
    before = LiveCapture.fingerprint_inputs(capture="capture_00001_")
    os.utime(out / "live" / "capture_00001_.flac", (2e9, 2e9))
    assert LiveCapture.fingerprint_inputs(capture="capture_00001_") != before


@pytest.mark.parametrize("name", ["capture_00009_", "../live/capture_00001_", "/etc/passwd", "", "capture_00001_.flac"])
def test_no_other_file_is_read(out: Path, captured: Capture, name: str) -> None:
    live_files.write_capture(captured)
    assert "is not there" in LiveCapture.validate_inputs(capture=name)
    with pytest.raises(InputError, match="is not there"):
        LiveCapture.execute(name)


@pytest.mark.parametrize("suffix", [".flac", ".latent", ".safetensors"])
@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_told(out: Path, captured: Capture, suffix: str, damage: bytes | None) -> None:
    live_files.write_capture(captured)
    file = out / "live" / f"capture_00001_{suffix}"
    file.write_bytes(file.read_bytes()[:2000] if damage is None else damage)
    with pytest.raises(OstinatoError):
        LiveCapture.execute("capture_00001_")


def test_without_a_folder_there_is_nothing_to_choose(tmp_path: Path) -> None:
    assert live_files.capture_names() == []
    assert LiveCapture.GET_SCHEMA().inputs[0].options == ["none found"]
