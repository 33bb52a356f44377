"""The built-in presets, loading, and what a prompt becomes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ostinato.engine_runtime.audio.encode import encode_audio
from ostinato.engine_runtime.config import Guidance, Sampling
from ostinato.engine_runtime.errors import ModelError
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.stream.request import Request

from ...helpers import Asked, play

CPU = torch.device("cpu")


def weights(folder: Path) -> dict[str, str]:
    """Hash of every file's bytes, by its place in the folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("name", ["random", "random-base"])
def test_a_preset_is_small_and_made_the_same_twice(cache, name: str, tmp_path, places) -> None:
    first = preset_folder(name)
    places(cache=tmp_path)
    second = preset_folder(name)
    assert second.parent == tmp_path and first != second
    made = weights(second)
    assert sum(path.endswith(".safetensors") for path in made) == 6
    assert made == weights(first)
    assert sum(p.stat().st_size for p in second.rglob("*")) < 20e6
    assert [p.name for p in tmp_path.iterdir()] == [second.name]


def test_a_preset_is_made_once(cache) -> None:
    folder = preset_folder("random")
    assert preset_folder("random", lambda kind: pytest.fail("made again")) == folder


def test_turbo_and_base_are_told_apart(turbo, base) -> None:
    assert (turbo.turbo, base.turbo) == (True, False)
    assert turbo.identity != base.identity
    assert encode_prompt(turbo, Prompt("piano", seconds=0.4)).null_tokens is None
    null = encode_prompt(base, Prompt("piano", seconds=0.4)).null_tokens
    learned = base.pipe.condition_encoder.null_condition_emb[0]
    assert null.shape[1] == learned.shape[1] and torch.equal(null, learned.expand_as(null))


# Each process takes what was made before, then waits until the other has it too, so that both come to the rename with a
# whole folder.
RACE = """
import os, shutil, sys, time, pathlib
from ostinato.engine_runtime.models.presets import preset_folder
meeting, made = map(pathlib.Path, sys.argv[1:])
class Made:
    def save_pretrained(self, folder):
        shutil.copytree(made, folder, dirs_exist_ok=True)
        (meeting / str(os.getpid())).touch()
        for _ in range(3000):
            if len(list(meeting.iterdir())) == 2:
                return
            time.sleep(0.02)
        raise SystemExit("the other process never came")
sys.stdout.write(str(preset_folder("random", lambda kind: Made())))
"""


@pytest.mark.slow
def test_two_processes_at_once(cache, tmp_path) -> None:
    made, home, meeting = preset_folder("random"), tmp_path / "home", tmp_path / "meeting"
    meeting.mkdir()
    env = os.environ | {"OSTINATO_CACHE": str(home)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(meeting), str(made)], stdout=-1, stderr=-1, text=True, env=env
        )
        for _ in range(2)
    ]
    told = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert {out for out, _ in told} == {str(home / made.name)}
    assert [p.name for p in home.iterdir()] == [made.name]
    assert weights(home / made.name) == weights(made)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_crash_leaves_no_half_folder(error: type[BaseException], tmp_path, places) -> None:
    places(cache=tmp_path)

    class Half:
        def save_pretrained(self, folder: Path) -> None:
            (Path(folder) / "transformer").mkdir()
            (Path(folder) / "model_index.json").write_text("{")
            raise error("in the middle")

    with pytest.raises(ModelError if error is OSError else error):
        preset_folder("random", lambda kind: Half())
    assert list(tmp_path.iterdir()) == []


def test_a_copy_in_a_plain_folder_plays_the_same(base, tmp_path) -> None:
    shutil.copytree(preset_folder("random-base"), tmp_path / "my model")
    copy = load(str(tmp_path / "my model"), CPU, torch.float32)
    assert copy.turbo is False and copy.name.endswith("my model")
    prompt, out = Prompt("sad violin", "la la", seconds=0.6, bpm=90), []
    for model in (base, copy):
        condition = encode_prompt(model, prompt)
        asked = [Request(condition, Sampling(steps=3), Guidance(scale=4.0))]
        out.append((condition.tokens, condition.context, condition.null_tokens, play(eager_engine(model), asked)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))


@pytest.mark.parametrize(("dtype", "vae"), [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)])
def test_dtypes(cache, dtype: torch.dtype, vae: torch.dtype) -> None:
    model = load("random-base", CPU, dtype)
    parts = {name: getattr(model.pipe, name) for name in ("transformer", "condition_encoder", "text_encoder")}
    assert {name: part.dtype for name, part in parts.items()} == dict.fromkeys(parts, dtype)
    assert model.pipe.vae.dtype == vae
    assert eager_engine(model).dtype == dtype
    condition = encode_prompt(model, Prompt("piano", seconds=0.4))
    assert {t.dtype for t in (condition.tokens, condition.context, condition.null_tokens)} == {dtype}
    latent = play(eager_engine(model), [Request(condition, Sampling(steps=2), Guidance(scale=3.0))])[0]
    assert latent.dtype == torch.float32 and bool(latent.isfinite().all())


@pytest.fixture(scope="module")
def source(turbo) -> torch.Tensor:
    """3.2 s of a swept tone, encoded: `[80, 64]`."""
    t = torch.arange(80 * 1920) / 48_000
    return encode_audio(turbo, 0.3 * torch.sin(2 * torch.pi * (220 + 50 * t) * t)[None], 48_000)


def silence(turbo, frames: int) -> torch.Tensor:
    return turbo.pipe.prepare_src_latents(CPU, torch.float32, latent_length=frames)[0][0]


@pytest.mark.parametrize(("seconds", "frames"), [(0.01, 1), (0.04, 1), (0.28, 7), (1.0, 25), (2.5, 63)])
def test_context_of_text2music(turbo, seconds: float, frames: int) -> None:
    context = encode_prompt(turbo, Prompt("piano", seconds=seconds)).context
    assert context.shape == (frames, 128)
    assert torch.equal(context[:, 64:], torch.ones_like(context[:, 64:]))
    assert torch.equal(context[:, :64], silence(turbo, context.shape[0]))


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(1.0, 2.0, 25, 50), (0.0, 0.0, 0, 80), (2.0, 0.0, 50, 80), (0.0, 3.2, 0, 80), (1.0, 1.01, 25, 26)],
)
def test_context_of_repaint(turbo, source, start: float, end: float, first: int, last: int) -> None:
    prompt = Prompt("piano", task="repaint", repaint_start=start, repaint_end=end)
    context = encode_prompt(turbo, prompt, source).context
    inside = torch.zeros(80, dtype=torch.bool)
    inside[first:last] = True
    assert torch.equal(context[:, 64:], inside[:, None].float().expand(-1, 64))
    assert torch.equal(context[~inside, :64], source[~inside])
    assert torch.equal(context[inside, :64], silence(turbo, 80)[inside])


@pytest.mark.parametrize("frames", [80, 33, 1])
def test_context_of_cover(turbo, source, frames: int) -> None:
    context = encode_prompt(turbo, Prompt("piano", task="cover"), source[:frames]).context
    assert context.shape == (frames, 128)
    assert torch.equal(context[:, 64:], torch.ones(frames, 64))
    assert not torch.allclose(context[:, :64], silence(turbo, frames), atol=1e-2)
    assert not torch.allclose(context[:, :64], source[:frames], atol=1e-2)


@pytest.mark.parametrize("task", ["text2music", "cover", "repaint"])
def test_a_source_sets_the_length(turbo, source, task: str) -> None:
    model = replace(turbo, pipe=Asked(turbo.pipe))
    prompt = Prompt("piano", seconds=9.0, task=task, bpm=120, key="C major", time_signature="4")
    assert encode_prompt(model, prompt, source).frames == 80
    asked = model.pipe.asked
    assert (asked[0]["audio_duration"], asked[0]["bpm"], asked[0]["keyscale"]) == (3.2, 120, "C major")
    if task == "text2music":
        assert encode_prompt(model, prompt).frames == 225
        assert asked[1]["audio_duration"] == 9.0
        ours = encode_prompt(turbo, prompt, source).context
        assert torch.equal(ours[:, :64], silence(turbo, 80))  # the source's sound is not in it


def test_words_reach_the_tokens(turbo) -> None:
    seen = [
        encode_prompt(turbo, prompt).tokens
        for prompt in (
            Prompt("piano"),
            Prompt("violin"),
            Prompt("piano", "la"),
            Prompt("piano", bpm=99),
            Prompt("piano", language="de"),
        )
    ]
    assert all(x.ndim == 2 and x.shape[1] == turbo.pipe.condition_encoder.config.hidden_size for x in seen)
    for i, a in enumerate(seen):
        assert not any(a.shape == b.shape and torch.allclose(a, b, atol=1e-4) for b in seen[i + 1 :])


def test_a_timbre_reaches_the_tokens(turbo, source) -> None:
    plain = encode_prompt(turbo, Prompt("piano")).tokens
    voiced = encode_prompt(turbo, Prompt("piano"), timbre=source.repeat(10, 1)[:750]).tokens
    assert plain.shape == voiced.shape and not torch.allclose(plain, voiced, atol=1e-3)
