"""What a user gets from a clone: the same dependencies either way, and importing that costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib needs Python 3.11")
ROOT = Path(__file__).parents[2]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_requirements_are_the_projects():
    """ComfyUI's manager installs from requirements.txt, pip from pyproject.toml."""
    assert (ROOT / "requirements.txt").read_text("utf-8").split() == project()["project"]["dependencies"]


def test_every_dependency_has_a_floor():
    extras = project()["project"]["optional-dependencies"]
    for requirement in sum(extras.values(), project()["project"]["dependencies"]):
        assert ">=" in requirement or requirement == "ostinato[rtx]"


def test_every_package_is_installed():
    listed = set(project()["tool"]["setuptools"]["packages"])
    found = {
        ".".join(("ostinato", *path.parent.relative_to(ROOT).parts))
        for top in ("cli", "engine_runtime", "nodes")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert listed == found | {"ostinato"}


def installed_data():
    data = project()["tool"]["setuptools"]["package-data"]
    return {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }


def test_data_is_named_in_one_way():
    """Of folders that are found in two ways setuptools warns at length, which a quiet pip shows since 26.3."""
    assert project()["tool"]["setuptools"]["include-package-data"] is False


def test_sources_of_kernels_are_installed():
    kernels = set((ROOT / "engine_runtime").rglob("*.cu"))
    assert kernels and kernels <= installed_data()


def test_all_that_comfyui_reads_is_installed():
    """Templates, the extension, help pages and translations."""
    for folder in ("example_workflows", "locales", "web"):
        files = {path for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert files and files <= installed_data()


def test_importing_the_pack_loads_nothing():
    """ComfyUI imports every pack at start-up; the nodes themselves come in through the entry point."""
    script = "import sys, ostinato; print(sorted(set(sys.modules) & {'torch', 'diffusers', 'ostinato.nodes'}))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("\npython3 -m venv .venv && .venv/bin/pip install -q -e") == 2


def test_the_architecture_names_files_that_are_there():
    """A map of files that were moved misleads whoever reads it first."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"[\w/]+/[\w/]+\.py", text))
    assert len(named) > 20
    assert [name for name in named if not any((ROOT / top / name).is_file() for top in ("", "engine_runtime"))] == []
