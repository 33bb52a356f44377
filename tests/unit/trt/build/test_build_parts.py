"""What a build is made of, without building: its spec, its states, its progress, and what it needs of a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ostinato.engine_runtime.engines.profiles import Span, parse_profiles, smallest
from ostinato.engine_runtime.errors import EngineBuildError
from ostinato.engine_runtime.trt.build.builder import Fraction
from ostinato.engine_runtime.trt.build.job import NEXT, State
from ostinato.engine_runtime.trt.files.spec import BuildSpec, make_spec
from ostinato.engine_runtime.trt.library import preflight

from ...refusal import check_sentence

ROOT = Path(__file__).resolve().parents[4]


def test_seconds_are_frames_and_a_decoder_has_even_ones():
    spec = make_spec("rtx", "decoder", {"model": "random"}, {"seconds": "2.04:2.6:3"})
    assert spec.profiles[0].frames == Span(52, 66, 76)  # 51, 65 and 75 frames
    vae = make_spec("rtx", "vae_decoder", {"model": "random"}, {"seconds": "2.04:2.2:3"})
    assert vae.profiles[0].frames == Span(51, 55, 75) and vae.precision == "fp32"


def test_the_cheapest_profile_that_fits_is_chosen():
    profiles = parse_profiles("1:2:4,1:2:4,1:1:1", "2:10:60,2:5:10,2:10:60", "1:64:512", None)
    assert smallest(profiles, 4, 250, 100) == 1
    assert smallest(profiles, 1, 1500, 100) == 2
    assert smallest(profiles, 2, 1500, 100) == 0
    assert smallest(profiles, 5, 250, 100) is None
    assert smallest(profiles, 1, 250, 513) is None


def test_a_spec_travels_as_json_and_as_a_command():
    texts = {"batch": "1:1:4,4:8:16", "seconds": "2:10:60", "rank": "1:8:32"}
    spec = make_spec("tensorrt", "decoder", {"model": "a b/c"}, texts, lora=True, refittable=True, tf32=True)
    assert BuildSpec.of(json.loads(json.dumps(spec.as_json()))) == spec
    assert spec.name.startswith("c-decoder-bf16-tensorrt-lora-refittable-")
    one, other = (make_spec("rtx", "decoder", {"model": "random"}, {"batch": batch}) for batch in ("1:4:16", "2"))
    assert one.name != other.name, "neither takes the other's place"
    words = spec.command(Path("/e"))
    assert "--model 'a b/c'" in words and "--batch 1:1:4,4:8:16" in words and "--lora --rank 1:8:32,1:8:32" in words


def test_states_follow_one_another():
    assert set(NEXT) == set(State)
    ends = {state for state, after in NEXT.items() if not after}
    assert ends == {State.done, State.failed, State.cancelled}
    for state, after in NEXT.items():
        assert state in ends or {State.failed, State.cancelled} <= set(after)
    assert [state for state, after in NEXT.items() if State.done in after] == [State.checking]


def test_progress_of_nested_phases_never_falls():
    told = []
    fraction = Fraction(told.append)
    fraction.start("all", None, 2)
    fraction.start("part", "all", 4)
    for i in range(4):
        fraction.step("part", i)
    fraction.finish("part")
    fraction.step("all", 0)
    fraction.start("more", "all", 1)  # a phase may say fewer steps than it makes
    for i in range(3):
        fraction.step("more", i)
    fraction.step("all", 1)
    assert told == [0.125, 0.25, 0.375, 0.5, 1.0]


@pytest.mark.parametrize(
    ("wheels", "torch_cuda", "driver", "words"),
    [
        ({13}, "13.0", (13, 1), None),
        ({13}, None, None, None),
        (set(), "12.8", (12, 8), None),
        ({13}, "12.8", (13, 0), ("CUDA 13 and PyTorch for CUDA 12.8", "install tensorrt-rtx-cu12")),
        ({13}, "12.8", (12, 8), ("driver runs CUDA up to 12.8", "install tensorrt-rtx-cu12")),
        ({12, 13}, "13.0", (13, 0), ("CUDA 12 and 13 at once", "uninstall -y tensorrt-rtx-cu12 ")),
    ],
)
def test_a_wheel_of_another_cuda_is_found(wheels, torch_cuda, driver, words):
    found = preflight.cuda_problem("tensorrt_rtx", wheels, torch_cuda, driver)
    assert (found is None) == (words is None)
    if found is not None and words is not None:
        assert words[0] in found[0] and words[1] in found[1]


def test_what_is_short_is_told_before_a_build(tmp_path):
    for check in (
        lambda: preflight.check_room(tmp_path, 1 << 60, "the engine"),
        lambda: preflight.check_memory(10 << 30, free=1 << 30),
        lambda: preflight.check_packages(["no_such_package"], "tensorrt_rtx"),
        lambda: preflight.check_gpu("tensorrt", refittable=False, found=False),
        lambda: preflight.check_library("no_such_library"),
        lambda: preflight.check_cuda("tensorrt", False, {13}, (12, 8)),
        lambda: preflight.check_cuda("tensorrt_rtx", True, {13}, (12, 8)),
        lambda: preflight.check_cuda("tensorrt_rtx", False, {12, 13}, (13, 0)),
    ):
        with pytest.raises(EngineBuildError) as caught:
            check()
        check_sentence(caught.value)
    preflight.check_cuda("tensorrt_rtx", False, {13}, (12, 8))  # no driver is used
    preflight.check_room(tmp_path, 0, "nothing")
    preflight.check_memory(0)
    preflight.check_gpu("tensorrt_rtx", refittable=False, found=False)


def test_the_command_that_installs_names_what_the_extra_has():
    tomllib = pytest.importorskip("tomllib", reason="tomllib needs Python 3.11")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for flavor, extra in (("tensorrt_rtx", "rtx"), ("tensorrt", "trt")):
        names = {requirement.split(">=")[0] for requirement in extras[extra]}
        assert set(preflight.install(flavor).split("install ")[1].split()) == names
