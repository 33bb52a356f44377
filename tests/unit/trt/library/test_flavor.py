"""Which TensorRT a process can use: what is installed, what is mapped, and which dtypes pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from ostinato.engine_runtime.errors import EngineError, InputError
from ostinato.engine_runtime.trt.library import flavor
from ostinato.engine_runtime.trt.library.flavor import DTYPES, mapped, owner, probe, to_torch

from .... import trt_stand_in as stand_in

SITE = "/opt/env/lib/python3.11/site-packages"
MAPS = f"""\
7f0000000000-7f0000001000 r--p 00000000 fd:00 11 {SITE}/torch_tensorrt/lib/libnvinfer.so.10
7f0000001000-7f0000002000 r-xp 00001000 fd:00 11 {SITE}/torch_tensorrt/lib/libnvinfer.so.10
7f0000003000-7f0000004000 r--p 00000000 fd:00 12 {SITE}/torch_tensorrt/lib/libnvinfer_plugin.so.10
7f0000005000-7f0000006000 rw-p 00000000 00:00 0
7f0000007000-7f0000008000 r--p 00000000 fd:00 13 /usr/lib/with space/libtensorrt_rtx-1a2b3c.so.1 (deleted)
7f0000009000-7f000000a000 r--p 00000000 fd:00 14 {SITE}/other/libnvinfer_lean.so.10
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0  [vdso]
"""
REAL = ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64"]


@pytest.fixture
def finds(monkeypatch):
    """`finds(mapped=..., folder_of=..., library_version=...)`: what this process finds of libraries."""

    def find(**answers):
        for name, answer in answers.items():
            monkeypatch.setattr(flavor, name, lambda *_, answer=answer: answer)

    return find


@pytest.fixture
def absent(monkeypatch, finds, tmp_path):
    """A process in which nothing of TensorRT was imported or mapped; its packages come from the returned folder."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "tensorrt_rtx")]:
        monkeypatch.delitem(sys.modules, name)
    finds(mapped=[], folder_of=None)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "tensorrt_rtx")]:
        del sys.modules[name]


def package(folder: Path, text: str, name: str = "tensorrt") -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)


WHOLE = "__version__ = '10.13.3.9'\nclass Runtime: ...\nclass IRuntimeConfig: ...\n"


def test_mapped_libraries_are_found_with_their_files(tmp_path):
    (tmp_path / "maps").write_text(MAPS)
    found = mapped(tmp_path / "maps")
    assert [name for name, _ in found] == ["tensorrt", "tensorrt_rtx"]
    assert found[0][1] == Path(f"{SITE}/torch_tensorrt/lib/libnvinfer.so.10")
    assert "with space" in str(found[1][1])
    assert mapped(tmp_path / "nothing") == []


def test_the_owner_is_named():
    assert owner(Path(f"{SITE}/torch_tensorrt/lib/libnvinfer.so.10")) == "the package torch_tensorrt"
    assert owner(Path("/usr/lib/x86_64-linux-gnu/libnvinfer.so.10")) == "the system"


@pytest.mark.parametrize("wanted", ["tensorrt", "tensorrt_rtx"])
def test_a_foreign_library_is_named_and_refused(absent, finds, wanted):
    """Before anything is imported, for two of them in one process end in a crash."""
    package(absent, "raise SystemExit('imported beside a foreign library')", wanted)
    foreign = Path(f"{SITE}/torch_tensorrt/lib/libnvinfer.so.10")
    finds(mapped=[("tensorrt", foreign)], folder_of=Path(f"{SITE}/tensorrt_libs"))
    with pytest.raises(EngineError) as error:
        probe(wanted)
    assert str(foreign) in str(error.value) and "package torch_tensorrt" in str(error.value)


def test_a_library_of_another_release_is_named(absent, finds):
    package(absent, WHOLE)
    found = Path("/usr/lib/libnvinfer.so.10")
    finds(mapped=[("tensorrt", found)], library_version=(10, 9, 0))
    with pytest.raises(EngineError, match=r"tensorrt 10\.13\.3\.9 met the library 10\.9\.0 from /usr/lib/libnvinfer"):
        probe("tensorrt")
    finds(library_version=(10, 13, 3))
    assert probe("tensorrt").library == found


BROKEN = {
    "not there": (None, "tensorrt is not installed"),
    "a shell": ("", "shell without the library"),  # what a package of stubs leaves
    "no version": ("class Runtime: ...", "shell without the library"),
    "too old": ("__version__ = '10.9.0.1'\nclass Runtime: ...", "it must be 10.13 or newer"),
    "no libnvinfer": ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "libnvinfer.so.10"),
    "no bindings": ("import tensorrt_bindings_that_are_missing", "needs tensorrt_bindings_that_are_missing"),
    "another fault": ("raise RuntimeError('CUDA 11 only')", "CUDA 11 only"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_says_why_and_what_to_install(absent, kind):
    text, said = BROKEN[kind]
    if text is not None:
        package(absent, text)
    with pytest.raises(EngineError) as error:
        probe("tensorrt")
    assert said in str(error.value) and "-m pip install --upgrade tensorrt" in str(error.value)


def test_an_unknown_flavor():
    with pytest.raises(InputError, match="allowed are tensorrt, tensorrt_rtx"):
        probe("tensorflow")


def test_capabilities_are_read_from_the_module(absent):
    package(absent, WHOLE)
    found = probe("tensorrt")
    assert (found.release, found.title) == ((10, 13, 3, 9), "TensorRT 10.13.3.9")
    assert not (found.validity or found.runtime_cache or found.own_graphs or found.specialization)


def test_the_real_rtx():
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'ostinato[rtx]'")
    found = probe("tensorrt_rtx")
    assert found.validity and found.runtime_cache and found.own_graphs and found.specialization
    if sys.platform == "linux":
        assert found.library is not None and found.library.name.startswith("libtensorrt_rtx.so")
        with pytest.raises(EngineError, match=r"another TensorRT is loaded .*libtensorrt_rtx.*tensorrt_rtx_libs"):
            probe("tensorrt")
    for name in REAL:
        assert to_torch(getattr(found.module.DataType, name)) is DTYPES[name]


def test_dtypes_pass_by_one_strict_table():
    assert sorted(DTYPES) == sorted(REAL) and len(set(DTYPES.values())) == len(DTYPES)
    assert to_torch(stand_in.DataType.BF16) is torch.bfloat16
    for name in ("INT4", "FP4", "E8M0"):
        with pytest.raises(EngineError, match=name):
            to_torch(stand_in.DataType[name])
