"""When Build Engine builds and runs again: after a change, a cancel, a broken file, and not for nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.trt.build import queue
from ostinato.engine_runtime.trt.build.job import State
from ostinato.engine_runtime.trt.files.sidecar import sidecar_path
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.nodes.build_engine import BuildEngine
from ostinato.nodes.shared import engine_owner, folders

from ...engine_files import made_up, put
from .engine_nodes import ASKED, Cache, run

pytestmark = pytest.mark.usefixtures("folder")


def test_sizes_that_differ_make_names_that_differ(turbo, jobs):
    for changes in ({}, {"batch": "2"}, {"seconds": "30"}, {"tokens": "64"}, {"lora": True}):
        run(BuildEngine, model=turbo, **ASKED | changes)
    run(BuildEngine, model=turbo, **ASKED | {"lora": True, "rank": "8"})
    assert len({job.spec.name for job in jobs}) == len(jobs) == 6


def test_one_name_is_of_one_engine(turbo, jobs):
    named = ASKED | {"name": "live"}
    run(BuildEngine, "7", model=turbo, **named)
    said = run(BuildEngine, "8", model=turbo, **named | {"batch": "2"})[1]
    assert len(jobs) == 1 and "live is wanted with other settings too: ostinato build --name live" in said
    run(BuildEngine, "7", model=turbo, **named | {"batch": "2"})
    assert len(jobs) == 2, "one node may change its mind"
    run(BuildEngine, "8", model=turbo, **named | {"action": "cancel"})
    run(BuildEngine, "8", model=turbo, **named)
    assert len(jobs) == 3, "as may all, after a cancel"


def test_only_what_was_asked_for_plays(turbo, jobs, player, folder):
    asked = ASKED | {"name": "x", "precision": "fp32"}
    run(BuildEngine, model=turbo, **asked)
    spec = jobs[0].spec
    player.make("x", spec=replace(spec, profiles=spec.profiles * 2))
    jobs[0].state = State.done
    made = run(BuildEngine, model=turbo, **asked)
    assert len(jobs) == 2 and isinstance(made[0], EagerEngine), "another's engine of that name is built over"
    player.make("x", spec=spec)
    jobs[1].state = State.done
    assert run(BuildEngine, model=turbo, **asked)[0].sidecar.spec == spec and len(jobs) == 2


def test_an_engine_that_was_swapped_after_the_look_does_not_play(turbo, jobs, player, monkeypatch):
    monkeypatch.setattr(queue.Wanted, "is_there", lambda wanted: True)
    player.make("x")
    made = run(BuildEngine, model=turbo, **ASKED | {"name": "x", "precision": "fp32"})
    assert "x has other settings by now: ostinato build --name x" in made[1] and isinstance(made[0], EagerEngine)
    assert not player.library.open_engines


def test_the_engine_comes_from_the_folder_it_was_built_into(turbo, jobs, player, tmp_path, folder, in_comfyui):
    asked = ASKED | {"name": "x", "precision": "fp32"}
    run(BuildEngine, model=turbo, **asked)
    elsewhere = player.make("x", spec=jobs[0].spec, flags={"elsewhere": True})
    other = tmp_path / "other"
    put(other, elsewhere.data, elsewhere.sidecar, Trust())
    assert engine_owner.place(turbo, SimpleNamespace(unique_id="7")).folders[0] == folder
    player.make("x", spec=jobs[0].spec)
    jobs[0].state = State.done
    in_comfyui({folders.ENGINES: [other, folder]})
    assert run(BuildEngine, model=turbo, **asked)[0].sidecar.flags == {}


@pytest.mark.parametrize("how", ["delete", "cut", "sidecar"])
def test_what_is_gone_or_broken_is_built_again(turbo, jobs, folder, how):
    play = Cache(BuildEngine, model=turbo, **ASKED)
    play(), jobs[0].ends(State.done), play(), play()
    assert (len(jobs), play.runs) == (1, 2)
    plan = jobs[0].plan
    if how == "delete":
        plan.unlink()
    elif how == "cut":
        os.truncate(plan, 10)
    else:
        sidecar_path(plan).write_text("{}")
    said = play()[1]
    assert (len(jobs), play.runs) == (2, 3) and "exporting" in said
    jobs[1].ends(State.done)
    assert "exporting" not in play()[1] and (len(jobs), play.runs) == (2, 4)


def test_a_look_between_the_files_and_the_end_of_the_build_is_not_the_last(turbo, jobs):
    play = Cache(BuildEngine, model=turbo, **ASKED)
    play()
    put(jobs[0].folder, *made_up(jobs[0].spec.name, spec=jobs[0].spec), Trust())
    assert "exporting" in play()[1]
    jobs[0].state = State.done
    assert "exporting" not in play()[1] and play() and play.runs == 3


def test_bytes_that_changed_are_built_again(turbo, jobs, player, folder):
    asked = ASKED | {"name": "x", "precision": "fp32"}
    run(BuildEngine, model=turbo, **asked)
    made = player.make("x", spec=jobs[0].spec)
    jobs[0].state = State.done
    (folder / "x.plan").write_bytes(b"!" + made.data[1:])
    said = run(BuildEngine, model=turbo, **asked)[1]
    assert len(jobs) == 2 and "the bytes of x.plan are not those that were built" in said and "exporting" in said


def test_cancel_finds_the_build_whatever_the_settings_are_now(turbo, jobs):
    run(BuildEngine, model=turbo, **ASKED)
    cancel = ASKED | {"action": "cancel", "seconds": "30"}
    assert "was cancelled" in run(BuildEngine, model=turbo, **cancel)[1] and jobs[0].state is State.cancelled
    assert "no build of" in run(BuildEngine, model=turbo, **cancel)[1]
    run(BuildEngine, "8", model=turbo, **ASKED | {"name": "live"})
    run(BuildEngine, "9", model=turbo, **cancel | {"name": "live"})
    assert jobs[1].state is State.cancelled, "another node's of that name"


def test_a_build_after_a_cancel_is_no_cached_one(turbo, jobs):
    play = Cache(BuildEngine, model=turbo, **ASKED)
    play(), play(action="cancel"), play()
    assert [job.state for job in jobs] == [State.cancelled, State.exporting]
