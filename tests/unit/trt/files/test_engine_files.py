"""Broken, stale and foreign engine files: each is refused with its reason before anything of it reaches a library."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.errors import EngineFileError
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.trt.files import folder as folders
from ostinato.engine_runtime.trt.files import plan as reading
from ostinato.engine_runtime.trt.files.folder import discard, ready_folder, sweep, write_whole
from ostinato.engine_runtime.trt.files.plan import read_plan
from ostinato.engine_runtime.trt.files.sidecar import Expect, digest, read_sidecar, rewritten, sidecar_path
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.health.state import READY, STALE, UNUSABLE, health

from .... import helpers
from ....engine_files import ADA, made_up, put
from ...refusal import check_sentence

POSIX = pytest.mark.skipif(os.name != "posix", reason="links, modes and pipes as POSIX has them")


@pytest.fixture
def trust(tmp_path):
    return Trust(tmp_path / "home")


@pytest.fixture
def engine(tmp_path, trust):
    """A good engine, in the folder of a good neighbour."""
    put(tmp_path / "engines", *made_up("neighbour", 1), trust)
    return put(tmp_path / "engines", *made_up(), trust)


def side(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A breakage that edits the sidecar's JSON."""

    def broken(plan: Path) -> None:
        data = json.loads(sidecar_path(plan).read_text())
        change(data)
        sidecar_path(plan).write_text(json.dumps(data))

    return broken


def setting(path: str, value: object) -> Callable[[Path], None]:
    """A breakage that sets one field, `a.b` inside another."""

    def change(data: dict) -> None:
        *outer, last = path.split(".")
        for name in outer:
            data = data[int(name)] if name.isdigit() else data[name]
        data[last] = value

    return side(change)


def cut(share: float) -> Callable[[Path], None]:
    return lambda plan: plan.write_bytes(plan.read_bytes()[: int(share * plan.stat().st_size)])


def cut_sidecar(share: float) -> Callable[[Path], None]:
    def broken(plan: Path) -> None:
        path = sidecar_path(plan)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return broken


def flip(share: float) -> Callable[[Path], None]:
    def broken(plan: Path) -> None:
        data = bytearray(plan.read_bytes())
        data[int(share * len(data))] ^= 0x10
        plan.write_bytes(data)

    return broken


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def broken(plan: Path) -> None:
        plan.unlink()
        make(plan)

    return broken


def link_outside(plan: Path) -> None:
    real = plan.parents[1] / "elsewhere.plan"
    os.replace(plan, real)
    plan.symlink_to(real)


def swap_sidecars(plan: Path) -> None:
    other = sidecar_path(plan.with_name("neighbour.plan"))
    sidecar_path(plan).write_bytes(other.read_bytes())


PLACES = [random.Random(seed).uniform(0.0005, 0.9995) for seed in range(6)]
HASH = "f" * 64
BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{f"cut at {place:.4f}": ("truncated", cut(place)) for place in PLACES},
    **{f"flipped at {place:.4f}": ("tampered", flip(place)) for place in (0.0, *PLACES, 0.9999)},
    **{f"sidecar cut at {place:.4f}": ("sidecar", cut_sidecar(place)) for place in PLACES},
    "one byte more": ("truncated", lambda plan: plan.write_bytes(plan.read_bytes() + b"\0")),
    "no bytes": ("empty", lambda plan: plan.write_bytes(b"")),
    "another engine's plan": (
        "truncated",
        lambda plan: plan.write_bytes(plan.with_name("neighbour.plan").read_bytes()),
    ),
    "another engine's sidecar": ("truncated", swap_sidecars),
    "no plan": ("missing", Path.unlink),
    "a folder": ("unreadable", replaced(Path.mkdir)),
    "no sidecar": ("sidecar", lambda plan: sidecar_path(plan).unlink()),
    "empty sidecar": ("sidecar", lambda plan: sidecar_path(plan).write_bytes(b"")),
    "sidecar of no text": ("sidecar", lambda plan: sidecar_path(plan).write_bytes(bytes(range(256)))),
    "sidecar too deep": ("sidecar", lambda plan: sidecar_path(plan).write_text("[" * 200_000)),
    "sidecar is a list": ("sidecar", lambda plan: sidecar_path(plan).write_text("[1]")),
    "sidecar is a folder": (
        "unreadable",
        lambda plan: (sidecar_path(plan).unlink(), sidecar_path(plan).mkdir()),
    ),
    "newer schema": ("sidecar", setting("schema", 2)),
    "schema true": ("sidecar", setting("schema", True)),
    "unknown flavor": ("sidecar", setting("flavor", "tensorflow")),
    "library is no version": ("sidecar", setting("library", "newest")),
    "hash too short": ("sidecar", setting("plan_sha256", "ab")),
    "negative size": ("sidecar", setting("plan_bytes", -1)),
    "size is a text": ("sidecar", setting("plan_bytes", "5004")),
    "no profiles": ("sidecar", setting("profiles", [])),
    "profile falls": ("sidecar", setting("profiles.0.batch", [4, 1, 16])),
    "profile without frames": ("sidecar", setting("profiles.0.frames", None)),
    "profile of texts": ("sidecar", setting("profiles.0.batch", ["1", "2", "3"])),
    "no io": ("sidecar", setting("io", [])),
    "no export": ("sidecar", setting("export", None)),
    "weights no hash": ("sidecar", setting("export.weights", 7)),
    "name leads away": ("sidecar", setting("spec.name", "../../one")),
    "spec without a model": ("sidecar", setting("spec.model", None)),
    "endless seconds": ("sidecar", setting("seconds", float("inf"))),
    "no capabilities": ("sidecar", setting("compute_capabilities", [])),
    "unknown field": ("sidecar", setting("sudo", True)),
    "field gone": ("sidecar", side(lambda data: data.pop("library"))),
    "refittable by hand": ("tampered", setting("refittable", True)),
    "profile widened by hand": ("tampered", setting("profiles.0.batch", [1, 4, 64])),
    "capability added by hand": ("tampered", side(lambda data: data["compute_capabilities"].append([12, 1]))),
    "hash changed by hand": ("untrusted", setting("plan_sha256", HASH)),
    "version changed by hand": ("version", setting("library", "1.4.0.1")),
    "weights changed by hand": ("weights", setting("export.weights", HASH)),
}
LINKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "link outside": ("outside", link_outside),
    "link to nothing": ("missing", replaced(lambda plan: plan.symlink_to("nothing.plan"))),
    "link to itself": ("unreadable", replaced(lambda plan: plan.symlink_to(plan.name))),
    "pipe": ("unreadable", replaced(lambda plan: os.mkfifo(plan))),
}
ELSEWHERE: dict[str, tuple[str, Expect]] = {
    "other flavor": ("flavor", replace(ADA, flavor="tensorrt")),
    "older library": ("version", replace(ADA, library="1.4.0.1")),
    "newer library": ("version", replace(ADA, library="1.7.1.117")),
    "Hopper": ("gpu", replace(ADA, capability=(9, 0), device="H100")),
    "Turing": ("gpu", replace(ADA, capability=(7, 5), device="T4")),
    "other part": ("kind", replace(ADA, kind="vae_decoder")),
    "other weights": ("weights", replace(ADA, weights=HASH)),
    "other recipe": ("recipe", replace(ADA, recipe=HASH)),
    "header refused": ("version", replace(ADA, header_problem=lambda head: f"{len(head)} bytes of another release")),
}


def check_refused(plan: Path, trust: Trust, reason: str, expect: Expect = ADA) -> EngineFileError:
    """The engine is refused for `reason`, in one sentence; its neighbour still loads, and music still plays."""
    with pytest.raises(EngineFileError) as caught:
        read_plan(plan, expect, trust)
    assert caught.value.reason == reason, caught.value
    check_sentence(caught.value)
    check_usable(plan.parent, trust)
    return caught.value


def check_usable(folder: Path, trust: Trust) -> None:
    """The good neighbour in the folder still loads, and music still plays."""
    assert read_plan(folder / "neighbour.plan", ADA, trust) == made_up("neighbour", 1)
    requests = [Request(helpers.made_up(3, 8), Sampling(steps=1))]
    assert helpers.play(helpers.StandIn(), requests, depth=1)[0].isfinite().all()


def test_a_good_engine_is_read(engine, trust):
    assert read_plan(engine, ADA, trust) == made_up()
    assert health(engine, {"tensorrt_rtx": ADA}, trust, whole=True).state == READY


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_engine_is_refused(name, engine, trust):
    reason, broken = BROKEN[name]
    broken(engine)
    error = check_refused(engine, trust, reason)
    if reason not in ("unreadable", "untrusted") and "newer" not in name:
        assert "ostinato build --name one" in error.remedy


@POSIX
@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_refused(name, engine, trust):
    reason, broken = LINKS[name]
    broken(engine)
    check_refused(engine, trust, reason)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_engine_for_another_place_is_refused(name, engine, trust):
    reason, expect = ELSEWHERE[name]
    error = check_refused(engine, trust, reason, expect)
    exact = f"ostinato build --name one --what decoder --model random --flavor rtx --precision bf16 --batch 1:4:16 \
--seconds 2:10:60 --tokens 16:128:512 --engines {engine.parent}"
    if reason not in ("kind", "gpu"):
        assert exact in error.remedy


@pytest.mark.parametrize(
    ("capability", "device", "fits"), [((9, 0), "H100", True), ((9, 0), "H200", False), ((8, 9), "H100", False)]
)
def test_full_tensorrt_is_for_the_gpu_that_built_it(tmp_path, trust, capability, device, fits):
    plan, sidecar = made_up()
    target = {"sm": [9, 0], "device": "H100", "driver": "13.0", "cuda": "13.0"}
    spec = replace(sidecar.spec, flavor="tensorrt")
    path = put(tmp_path, plan, replace(sidecar, flavor="tensorrt", target=target, spec=spec), trust)
    expect = replace(ADA, flavor="tensorrt", capability=capability, device=device)
    if fits:
        assert read_plan(path, expect, trust)[0] == plan
        return
    with pytest.raises(EngineFileError, match="was built on H100") as caught:
        read_plan(path, expect, trust)
    assert caught.value.reason == "gpu" and "on this GPU" in caught.value.remedy


def test_states_tell_stale_from_broken(engine, trust):
    stale = health(engine, {"tensorrt_rtx": replace(ADA, library="1.4.0.1")}, trust)
    assert (stale.state, stale.reason) == (STALE, "version") and stale.sidecar is not None
    flip(0.5)(engine)
    assert health(engine, {"tensorrt_rtx": ADA}, trust).state == READY  # by its sidecar alone
    broken = health(engine, {"tensorrt_rtx": ADA}, trust, whole=True)
    assert (broken.state, broken.reason) == (UNUSABLE, "tampered")


# -- what is hashed is what is returned


def test_a_file_swapped_after_it_was_read_changes_nothing(engine, trust, monkeypatch):
    good, real, swapped = engine.read_bytes(), reading.hashlib.sha256, []

    def swapping(data=b""):
        if len(data) == len(good):
            swapped.append(engine.write_bytes(good[::-1]))
        return real(data)

    monkeypatch.setattr(reading.hashlib, "sha256", swapping)
    data, _ = read_plan(engine, ADA, trust)
    assert swapped and data == good and engine.read_bytes() != good


@pytest.mark.parametrize("longer", [0, 1])
def test_a_file_swapped_before_it_is_read_is_refused(engine, trust, monkeypatch, longer):
    real, evil = os.open, engine.read_bytes()[::-1] + b"x" * longer

    def swapping(path, *rest, **more):
        if Path(path) == engine:
            engine.write_bytes(evil)
        return real(path, *rest, **more)

    monkeypatch.setattr(reading.os, "open", swapping)
    with pytest.raises(EngineFileError) as caught:
        read_plan(engine, ADA, trust)
    assert caught.value.reason == ("truncated" if longer else "tampered")


# -- writing


def _no_room(monkeypatch, number=errno.ENOSPC):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folders.os, "fsync", full)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EROFS, "folder"), (errno.EIO, "folder")],
)
def test_a_full_or_failing_disk_leaves_the_old_file(engine, trust, monkeypatch, number, reason):
    before = sorted(os.listdir(engine.parent))
    with monkeypatch.context() as patch:
        _no_room(patch, number)
        with pytest.raises(EngineFileError) as caught:
            write_whole(engine, b"new" * 1000)
        assert read_plan(engine, ADA, trust) == made_up()
        check_usable(engine.parent, trust)
    assert caught.value.reason == reason
    check_sentence(caught.value)
    assert sorted(os.listdir(engine.parent)) == before
    write_whole(engine, made_up()[0])  # once there is room
    assert read_plan(engine, ADA, trust) == made_up()


def test_a_full_disk_keeps_what_is_trusted(engine, trust, monkeypatch):
    third = made_up("third", 3)
    with monkeypatch.context() as patch:
        _no_room(patch)
        with pytest.raises(EngineFileError, match="full"):
            trust.record(third[1])
        check_usable(engine.parent, trust)
    assert read_plan(engine, ADA, trust) == made_up()
    assert read_plan(put(engine.parent, *third, trust), ADA, trust) == third  # once there is room


@pytest.mark.parametrize("place", ["a file", "under a file", "no name", "system"])
def test_an_unwritable_folder_is_refused(engine, trust, tmp_path, place):
    (tmp_path / "file").write_text("")
    where = {
        "a file": tmp_path / "file",
        "under a file": tmp_path / "file" / "engines",
        "no name": tmp_path / ("x" * 300),
        "system": Path("/proc/ostinato"),
    }[place]
    if place == "system" and not Path("/proc").is_dir():
        pytest.skip("no /proc on this system")
    with pytest.raises(EngineFileError, match="cannot be written") as caught:
        ready_folder(where)
    assert caught.value.reason == "folder"
    check_sentence(caught.value)
    check_usable(engine.parent, trust)
    assert ready_folder(tmp_path / "another").is_dir()


def _half_committed(tmp_path: Path, trust: Trust) -> tuple[Path, Path]:
    """A build that died between its two renames: the new plan is in place, its sidecar is not."""
    path = put(tmp_path / "engines", *made_up("one", 1), trust)  # the old engine
    work = tmp_path / "engines" / ".build-dead"
    plan, sidecar = made_up("one", 2)
    put(work, plan, sidecar, trust)
    os.replace(work / "one.plan", path)
    return path, work


def test_a_build_that_died_between_its_renames_is_finished(tmp_path, trust):
    path, work = _half_committed(tmp_path, trust)
    with pytest.raises(EngineFileError):
        read_plan(path, ADA, trust)
    assert sweep(path.parent, trust.has) == [work.name]
    assert read_plan(path, ADA, trust) == made_up("one", 2)
    assert not work.exists()


def test_a_dead_build_that_did_not_get_so_far_is_removed(tmp_path, trust):
    path = put(tmp_path / "engines", *made_up("one", 1), trust)
    work = tmp_path / "engines" / ".build-dead"
    put(work, *made_up("one", 2))
    assert not discard(work, trust.has)
    assert read_plan(path, ADA, trust) == made_up("one", 1) and not work.exists()


def test_a_dead_build_whose_plan_is_broken_is_not_finished(tmp_path, trust):
    path, work = _half_committed(tmp_path, trust)
    flip(0.5)(path)
    assert not discard(work, trust.has)
    assert digest(read_sidecar(path).as_json()) == digest(made_up("one", 1)[1].as_json())


def test_a_sidecar_comes_back_as_it_was_written():
    plan, sidecar = made_up(proof={"gpu": "A GPU", "corners": []}, peak_bytes=5)
    assert json.loads(rewritten(sidecar)) == json.loads(json.dumps(sidecar.as_json()))
