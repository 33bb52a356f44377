"""A package that cannot be imported is named in one line, whichever other package fails with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ostinato.engine_runtime import packages
from ostinato.engine_runtime.errors import PackageError

PACK = Path(__file__).parents[2]
RUN = (
    "import sys\nfrom ostinato.cli.main import main\n"
    "sys.argv = ['ostinato', 'run', sys.argv[1], '--out', sys.argv[2]]\nmain()"
)


def broken(folder: Path, name: str, body: str) -> None:
    """Write a package that fails as it is imported, with the metadata by which others find it."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(body)
    info = folder / f"{name}-2.5.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5.0\n")


@pytest.mark.slow
def test_torchaudio_of_another_torch(tmp_path: Path) -> None:
    """transformers imports it wherever it is installed, and then says something of AutoImageProcessor."""
    broken(tmp_path, "torchaudio", "raise OSError('/x/libtorchaudio.so: undefined symbol: _ZNK3c105Error4whatEv')")
    workflow = next((PACK / "example_workflows").glob("*text_to_music.json"))
    place = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(workflow), str(tmp_path / "out")],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": place}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "torchaudio 2.5.0 cannot be imported: /x/libtorchaudio.so: undefined symbol" in line
    assert "pip uninstall torchaudio" in line and "built for torch 2" in line


def test_a_package_that_lacks_a_class() -> None:
    with (
        pytest.raises(PackageError, match=r"the package diffusers [\d.]+ cannot be imported: cannot import name"),
        packages.named(),
    ):
        from diffusers import NoSuchPipeline  # noqa: F401


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="not while importing"), packages.named():
        raise RuntimeError("not while importing")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), packages.named():
        import no_such_module  # noqa: F401
