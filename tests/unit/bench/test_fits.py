"""Whether a model fits: all of the way is gone, what runs short is named, and the cap goes with the block."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from ostinato.cli.main import app
from ostinato.engine_runtime.bench import fits as fits_module
from ostinato.engine_runtime.bench.case import GIB, Case
from ostinato.engine_runtime.bench.fits import PARTS, Asked, Meter, capped, fits, played, text, try_longer
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.models.sized import _made_in
from ostinato.engine_runtime.stream.sessions import runtime
from torch import nn
from typer.testing import CliRunner

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SMALL = Asked(8.0, Case(depth=2, steps=2, seconds=1.0), longer=2.0, window=1.0)
WAY = ("prompt", "play", "decode", "live decode")


def measured(asked=SMALL):
    found = fits("tiny", "eager", CPU, torch.float32, asked, "ostinato bench fits")
    assert not runtime().names
    return found


@pytest.mark.slow
def test_the_command_loads_encodes_plays_and_decodes_without_ffmpeg(cache):
    """A machine that is lent to measure has PyTorch, and perhaps no FFmpeg."""
    code = "import sys; sys.modules['av'] = None; from ostinato.cli.main import app; app(sys.argv[1:])"
    words = "bench fits --size tiny --engine eager --device cpu --depth 2 --steps 2 --seconds 1 --longer 2 --json"
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    both = ("depth 2, 1 s", "depth 2, 2 s")
    assert [part["name"] for part in found["parts"]] == [
        *("load", "engine"), *(f"{step}, {name}" for name in both for step in WAY)
    ]  # fmt: skip
    assert found["size"] == "tiny"
    assert found["fits"] is None and found["device_bytes"] is None, "a CPU has no cap"
    assert set(found["weights_bytes"]) == set(PARTS) and all(found["weights_bytes"].values())
    assert all(part["finished"] >= 6 for part in found["parts"] if part["name"].startswith("play"))
    assert found["longer"] == [{"seconds": 2.0, "depth": 2, "fits": True}] and found["case"]["tokens"] > 8
    assert "--gigabytes 8.0" in found["command"] and "ran; a CPU has no cap" in text(found)


def test_guidance_has_its_rows(turbo):
    rows = []

    class Watched(EagerEngine):
        def rows(self, batch, frames, tokens):
            rows.append(batch)
            return super().rows(batch, frames, tokens)

    engine = Watched(turbo.pipe.transformer, "watched")
    played(Meter(CPU), turbo, engine, Case(depth=2, steps=2, seconds=1.0, cfg="full"), 1.0)
    assert set(rows) == {4}


@pytest.mark.slow
def test_what_runs_short_is_named(cache, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fits_module, "decode", short)
    found = measured()
    assert found["fits"] is False and found["longer"] == []
    assert found["parts"][-1]["name"] == "decode, depth 2, 1 s" and "found no room" in found["parts"][-1]["shortage"]
    assert "does NOT fit" in text(found)
    words = "bench fits --size tiny --engine eager --device cpu --depth 1 --steps 2 --seconds 1"
    assert CliRunner().invoke(app, words.split()).exit_code == 1


@pytest.mark.slow
def test_longer_music_is_tried_at_smaller_depths(turbo):
    class Small(EagerEngine):
        """Has room for one row of two seconds."""

        def rows(self, batch, frames, tokens):
            if batch * frames > 50:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().rows(batch, frames, tokens)

    found = try_longer(Meter(CPU), turbo, Small(turbo.pipe.transformer, "small"), SMALL)
    assert found == [{"seconds": 2.0, "depth": 2, "fits": False}, {"seconds": 2.0, "depth": 1, "fits": True}]


def test_the_cap_holds_inside_the_block_only(cuda):
    set_to, card = [], SimpleNamespace(total_memory=16 * GIB)
    cuda(
        get_device_properties=lambda device: card,
        set_per_process_memory_fraction=lambda share, device: set_to.append(share),
    )
    with pytest.raises(KeyError), capped(CUDA, SMALL.cap):
        assert set_to == [7 / 16], "a gigabyte is kept for the driver"
        raise KeyError
    assert set_to == [7 / 16, 1.0]
    with pytest.raises(InputError, match=r"23\.0 GiB are to be taken of a GPU that has 16\.0"), capped(CUDA, 23 * GIB):
        pass


def test_parts_are_never_wider_than_asked():
    """Made in float32 and narrowed, the encoders of the real size would not fit where they do."""
    before = torch.get_default_dtype()
    with pytest.raises(KeyError), _made_in(torch.bfloat16, CPU):
        assert nn.Linear(2, 2).weight.dtype == torch.bfloat16
        raise KeyError
    assert torch.get_default_dtype() == before


def test_a_gpus_memory_is_read_part_by_part(cuda):
    """And what the whole device holds counts, not only what PyTorch took."""
    used = iter((5 * GIB, 9 * GIB, 6 * GIB))
    asked = ("synchronize", "reset_peak_memory_stats", "memory_allocated", "max_memory_allocated")
    cuda(
        mem_get_info=lambda device: (16 * GIB - next(used), 16 * GIB),
        max_memory_reserved=lambda device: 4 * GIB,
        **dict.fromkeys(asked, lambda device: 3 * GIB),
    )
    meter = Meter(CUDA)
    for name in "abc":
        with meter.part(name):
            pass
    assert meter.most == 9 * GIB
    assert meter.parts[2] | {"seconds": 0} == {
        "name": "c", "seconds": 0, "held_bytes": 3 * GIB, "peak_bytes": 3 * GIB,
        "reserved_bytes": 4 * GIB, "device_bytes": 6 * GIB,
    }  # fmt: skip
