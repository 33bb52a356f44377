"""What was finished before a Cancel is in the output folder, and the Cancel goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.nodes import LoadModel, StreamDecode, StreamDenoise
from ostinato.nodes.shared import host, rescue
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.run import run_node
from safetensors.torch import load_file

from .test_model_fit import PLAYED, encode


class Cancelled(BaseException):
    """ComfyUI's is no Exception either."""


@pytest.fixture
def model(cache):
    asked = {"model": "random", "precision": "float32", "device": "cpu", "download": False}
    return run_node(LoadModel, asked, {})[0]


class User:
    """Presses Cancel once, at the nth question."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.asked = folder, at, 0
        self.texts: list[str] = []

    def cancelled(self) -> None:
        self.asked += 1
        if self.asked == self.at:
            raise Cancelled

    def next_file(self, prefix: str, suffix: str) -> Path:
        path = self.folder / f"{prefix}_{len(list(self.folder.rglob('*.*'))):05}_{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def runs(self, node, **given):
        shown = host.Host(
            cancelled=self.cancelled, next_file=self.next_file, text=lambda text, _: self.texts.append(text)
        )
        with host.use(shown):
            return run_node(node, given, {io.Hidden.unique_id: "3"})

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def stream(model, count: int = 4):
    return {"engine": eager_engine(model), "condition": encode(model), **PLAYED, "count": count, "steps": 2}


def sound(path: Path) -> torch.Tensor:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == 48_000
    return torch.from_numpy(audio.T)


def test_finished_generations_are_saved_as_sound(model, tmp_path):
    """A ring of one: two steps each, and two of four are over when Cancel comes before the sixth."""
    user = User(tmp_path, 6)
    with pytest.raises(Cancelled):
        user.runs(StreamDenoise, **stream(model))
    assert [path.suffix for path in user.files()] == [".flac", ".flac"]
    assert all(path.parent.name == rescue.FOLDER for path in user.files())
    assert user.texts[-1].startswith("cancelled; finished and saved in cancelled: ")
    whole = User(tmp_path / "whole", 0)
    latents = whole.runs(StreamDenoise, **stream(model))[0]
    clips = whole.runs(StreamDecode, model=model, latents=latents, window=0.0)[0]["waveform"]
    for path, clip in zip(user.files(), clips, strict=False):
        torch.testing.assert_close(sound(path), clip.clamp(-1, 1), atol=1e-4, rtol=0)
    assert not whole.files()


def test_without_a_vae_the_latents_are_saved_as_comfyui_reads_them(model, tmp_path):
    engine = eager_engine(model)
    engine.model = None
    user = User(tmp_path, 6)
    with pytest.raises(Cancelled):
        user.runs(StreamDenoise, **stream(model) | {"engine": engine})
    latents = User(tmp_path / "whole", 0).runs(StreamDenoise, **stream(model))[0]["samples"]
    for path, latent in zip(user.files(), latents[:2], strict=True):
        assert path.suffix == ".latent"
        stored = load_file(path)
        assert "latent_format_version_0" in stored and torch.equal(stored["latent_tensor"], latent[None])


def test_decoded_clips_are_saved(model, tmp_path):
    """Cancel comes within the second of three."""
    latents = User(tmp_path / "whole", 0).runs(StreamDenoise, **stream(model, 3))[0]
    whole = User(tmp_path / "whole", 0)
    clips = whole.runs(StreamDecode, model=model, latents=latents, window=0.0)[0]["waveform"]
    user = User(tmp_path / "cut", whole.asked // 3 + 2)
    with pytest.raises(Cancelled):
        user.runs(StreamDecode, model=model, latents=latents, window=0.0)
    (path,) = user.files()
    torch.testing.assert_close(sound(path), clips[0].clamp(-1, 1), atol=1e-6, rtol=0)


def test_nothing_finished_saves_nothing(model, tmp_path):
    user = User(tmp_path, 2)
    with pytest.raises(Cancelled):
        user.runs(StreamDenoise, **stream(model))
    assert not user.files() and not user.texts


class WithoutFolder(User):
    """One whose files have nowhere to go."""

    def next_file(self, prefix: str, suffix: str) -> Path:
        return self.folder / "no folder" / "clip.flac"


def test_a_full_disk_does_not_stop_the_cancel(model, tmp_path):
    user = WithoutFolder(tmp_path, 6)
    with pytest.raises(Cancelled):
        user.runs(StreamDenoise, **stream(model))
    assert user.texts[-1].startswith("cancelled; what was finished is not saved: ")


def test_a_second_cancel_ends_the_saving(model, tmp_path):
    user = User(tmp_path, 6)
    first = user.cancelled

    def twice() -> None:
        first()
        if user.asked == 8:
            raise Cancelled

    monkey = pytest.MonkeyPatch()
    monkey.setattr(user, "cancelled", twice)
    with pytest.raises(Cancelled):
        user.runs(StreamDenoise, **stream(model))
    assert len(user.files()) < 2
