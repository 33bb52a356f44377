"""The border in one process with ComfyUI's real loader and memory manager: `border.py` plays, this reads."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .server import Install, environment

SCRIPT = Path(__file__).with_name("border.py")


def border(install: Install, folder: Path, *arguments: str) -> dict:
    if not (folder / "ostinato").exists():
        (folder / "ostinato").symlink_to(SCRIPT.parents[2], target_is_directory=True)
    done = subprocess.run(
        [install.python, str(SCRIPT), str(install.root), *arguments],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": str(folder)},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(install: Install, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return border(install, tmp_path_factory.mktemp("border"), str(checkpoint))


def test_what_would_be_lost_is_refused_by_name(told):
    assert len(told["refused"]) > 25
    for name, message in told["refused"].items():
        assert name in message and message.count(";") == 2, f"{name}: {message}"


def test_a_mask_of_height_one_is_played(told):
    assert told["masks"]


def test_timbre_structure_and_repaint_are_each_where_they_belong(told):
    """Exactly what the core prepares, from two clips where its node takes one, and a chunk mask of its own."""
    assert told["references"] == dict.fromkeys(("timbre", "structure", "mask", "kept", "silent"), True)


def test_strength_changed_upstream_and_back_is_bit_equal(told):
    assert told["strengths"]["A is A"]
    assert told["strengths"]["B differs"] > 1e-3


def test_patches_that_a_job_has_loaded_in_between_are_not_played(told):
    assert told["another clone"] == [True] * 3


def test_no_capture_begins_while_they_are_loaded_beside_the_queue(told):
    """For a condition, and for an engine that begins to play."""
    assert told["memory"]["kept"] == [True, True]


def test_weights_are_comfyuis_own_and_let_go(told):
    assert told["memory"]["shared"]
    assert told["memory"]["held at rest"] == []


def test_weights_that_were_refused_are_brought_the_next_time(told):
    assert told["refused once"] == {"players": 0, "plays": True}


def test_eviction_between_renders_changes_nothing(told):
    assert told["memory"]["evicted"]
    assert told["memory"]["same after eviction"]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak can be reset on Linux only")
def test_border_takes_little_memory_over_the_weights(install, tmp_path):
    told = border(install, tmp_path, "peak", "512")
    assert told["weights"] > 4e8
    assert told["grown"] <= 0.15 * told["weights"]
