"""A clone in `custom_nodes` where only the requirements were installed has the command, and is never written into."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = (".*", "__pycache__", "node_modules", "*.egg-info", "build", "out", "tests", "frontend")

# Python with no `ostinato` but what it is given: a finder of an editable install is taken away.
ALONE = """
import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
del sys.argv[0]
what = sys.argv[0]
if what == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(what, run_name="__main__")
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("comfyui") / "custom_nodes" / "ostinato"
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for path in [place, *place.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    yield place
    for path in [place, *place.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)


def command(clone: Path, way: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    given = {"a folder": [str(clone)], "a module": ["-m", "ostinato"]}[way]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OSTINATO_CACHE": str(folder / "cache"), "NO_COLOR": "1"}
    if way == "a module":
        environ["PYTHONPATH"] = str(clone.parent)
    asked = [sys.executable, "-c", ALONE, *given, *words]
    return subprocess.run(asked, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("way", ["a folder", "a module"])
def test_a_clone_has_the_command(clone: Path, tmp_path: Path, way: str) -> None:
    done = command(clone, way, tmp_path, "knobs")
    assert done.returncode == 0 and "velocity_scale" in done.stdout, done.stderr


def test_another_name_of_the_folder_does_not_matter(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "ComfyUI-Music").symlink_to(clone)
    done = command(tmp_path / "ComfyUI-Music", "a folder", tmp_path, "knobs")
    assert done.returncode == 0 and "velocity_scale" in done.stdout, done.stderr


@pytest.mark.slow
def test_nothing_is_written_into_the_pack(clone: Path, tmp_path: Path) -> None:
    """Its folder may be read-only, or go with the next update."""
    before = state(clone)
    example = next((clone / "example_workflows").glob("*text_to_music.json"))
    settings = ("model=random", "seconds=1", "count=1", "steps=1")
    words = [word for setting in settings for word in ("--set", f"{_node_with(example, setting)}.{setting}")]
    done = command(clone, "a folder", tmp_path, "run", str(example), "--out", str(tmp_path / "out"), "--json", *words)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert files and all(Path(file).is_relative_to(tmp_path) for file in files)
    assert state(clone) == before


def _node_with(workflow: Path, setting: str) -> str:
    """The type of the node that has an input of that name."""
    name = setting.partition("=")[0]
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    return next(node["type"] for node in nodes if any(one["name"] == name for one in node["inputs"]))
