"""What engines' nodes give out and when they run again: after a change, a cancel, a shortage, and not for nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.config import StreamConfig
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.prove import Corner, concluded
from ostinato.engine_runtime.errors import EngineError, EngineFileError, InputError, MemoryShortage
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.trt import bake, loader
from ostinato.engine_runtime.trt.build import queue
from ostinato.engine_runtime.trt.build.job import State
from ostinato.engine_runtime.trt.files.plan import accept
from ostinato.engine_runtime.trt.files.sidecar import read_sidecar, sidecar_path
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.health import state
from ostinato.nodes.build_engine import BuildEngine
from ostinato.nodes.load_engine import STOP, TORCH, LoadEngine
from ostinato.nodes.lora import Lora
from ostinato.nodes.refit_lora import RefitLora
from ostinato.nodes.shared import engine_owner, folders, host

from ... import trt_stand_in as stand_in
from ...engine_files import LIBRARY, made_up, put
from .engine_nodes import ASKED, FakeRefit, fingerprint, passes, run

pytestmark = pytest.mark.usefixtures("folder")
CORNER = Corner("smallest", 1, 2, 1, None, max_abs=0.0, relative=0.0, peak=1.0)


class Cache:
    """ComfyUI's cache that keeps every output (`--cache-lru`): one node, by its inputs and its fingerprint."""

    def __init__(self, node, **inputs):
        self.node, self.inputs, self.kept, self.runs = node, inputs, {}, 0

    def __call__(self, linked=(), **changes):
        inputs = self.inputs | changes
        key = (fingerprint(self.node, **{k: v for k, v in inputs.items() if k not in linked}), str(inputs))
        if key not in self.kept:
            self.runs += 1
            self.kept[key] = run(self.node, **inputs)
        return self.kept[key]


def is_open(engine):
    return engine.executor.engine is not None


# Build Engine


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


# Load Engine


def test_engines_in_turn_are_open_when_they_are_given_out(turbo, player):
    player.make("one"), player.make("two")
    play = Cache(LoadEngine, engine="one", otherwise=STOP, model=turbo)
    one, two = play()[0], play(engine="two")[0]
    assert not is_open(one) and is_open(two) and play(engine="two")[0] is two and play.runs == 2
    assert is_open(play()[0]) and is_open(play()[0]) and play.runs == 3


def test_a_fallback_lets_go_of_what_played_before(turbo, player):
    player.make("one")
    play = Cache(LoadEngine, engine="one", otherwise=TORCH, model=turbo)
    one = play()[0]
    assert isinstance(play(engine="gone")[0], EagerEngine)
    assert not is_open(one) and not registry.one(loader.OpenEngines).held and not player.library.open_engines
    assert is_open(play()[0])


def test_what_a_node_writes_itself_is_no_change(turbo, player, folder, monkeypatch):
    player.make("one")

    def check(plan, **given):
        return Trust().write_proof(plan, {"gpu": "cpu"})

    player.check = check
    play = Cache(LoadEngine, engine="one", otherwise=TORCH, model=turbo)
    play(), play()
    assert play.runs == 1 and read_sidecar(folder / "one.plan").proof is not None


def test_an_engine_that_was_verified_is_opened_with_its_sidecar_read_once(turbo, player, folder, monkeypatch):
    player.make("one"), player.make("two", refittable=True)
    place = loader.Place([folder], turbo)
    for name in ("one", "two"):
        engine = place.open("load 7", name)
        proof = concluded(engine.identity, "eager", engine.device, 0, engine.dtype, [CORNER])
        Trust().write_proof(folder / f"{name}.plan", proof.as_json())
        loader.drop("load 7")
    player.checks.clear()
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *how, **more: opened.append(str(path)) or real(path, *how, **more))
    monkeypatch.setattr(bake, "Refit", FakeRefit)
    assert place.open("load 7", "one").verified
    assert bake.bake("refit 7", "two", place, turbo, ()).verified and not player.checks
    for name in ("one", "two"):
        assert opened.count(str(sidecar_path(folder / f"{name}.plan"))) == 1


def test_an_engine_that_is_built_anew_while_it_is_opened_is_told(turbo, player, monkeypatch):
    """The sidecar that was read is no longer that of the plan."""
    player.make("one")
    library, here = player.library, state.here

    def meanwhile(*where):  # before the bytes are read
        player.make("one", EagerEngine(turbo.pipe.transformer, "another"))
        return here(*where)

    monkeypatch.setattr(state, "here", meanwhile)
    with pytest.raises(EngineFileError, match="one.plan was built anew meanwhile"):
        run(LoadEngine, engine="one", otherwise=STOP, model=turbo)
    assert not library.open_engines


def test_a_check_that_failed_is_not_made_again_with_every_run(turbo, player, monkeypatch):
    player.make("one")

    def check(plan, **given):
        Trust().write_proof(plan, None)
        raise EngineError("the engine is not the reference", "it must be", "build it again")

    player.check = check
    play = Cache(LoadEngine, engine="one", otherwise=TORCH, model=turbo)
    play(), play()
    assert play.runs == 1


def test_an_engine_that_was_accepted_since_plays(turbo, player, folder):
    made = player.make("one")
    (folder.parent / "engines.json").unlink()
    play = Cache(LoadEngine, engine="one", otherwise=TORCH, model=turbo)
    assert "was not built by this installation" in play()[1]
    accept(folder / "one.plan", made.sidecar.identity())
    assert is_open(play()[0])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryShortage("a", "b", "c")])
def test_a_shortage_plays_on_torch_and_is_tried_again(turbo, player, monkeypatch, error):
    player.make("one")
    failing = [error]

    def check(plan, **given):
        if failing:
            raise failing.pop()
        return passes(plan)

    player.check = check
    play = Cache(LoadEngine, engine="one", otherwise=TORCH, model=turbo)
    assert isinstance(play()[0], EagerEngine) and not player.library.open_engines
    assert is_open(play()[0]) and is_open(play()[0]) and play.runs == 2


def test_a_shortage_is_tried_again_by_build_engine_too(turbo, jobs, player, monkeypatch):
    asked = ASKED | {"name": "x", "precision": "fp32"}
    run(BuildEngine, model=turbo, **asked)
    made = player.make("x", spec=jobs[0].spec)
    jobs[0].state = State.done
    made.faults["context_no_room"] = 2
    player.check = lambda plan, engine, **given: engine.ready()
    play = Cache(BuildEngine, model=turbo, **asked)
    assert isinstance(play()[0], EagerEngine)
    player.check = passes
    assert is_open(play()[0]) and is_open(play()[0]) and play.runs == 2


@pytest.mark.parametrize("node", [LoadEngine, RefitLora])
def test_a_linked_name_is_no_error(turbo, player, node):
    player.make("one")
    before = fingerprint(node)
    player.make("two")
    assert before != fingerprint(node)


def test_names_do_not_leave_the_folders(turbo, player, folder):
    player.make("one")
    (folder / "inner").mkdir()
    place = engine_owner.place(turbo, SimpleNamespace(unique_id="7"))
    for name in ("inner/../one", "../engines/one", str(folder / "one"), "one.plan", folders.NOTHING, ""):
        with pytest.raises(EngineFileError, match="there is no engine"):
            place.find(name)
        assert fingerprint(LoadEngine, engine=name).split() == ["0"]


@pytest.mark.parametrize("changes", [{}, {"library": "1.4.0.1"}])
def test_a_plan_that_may_not_play_brings_no_library_in(turbo, known, folder, monkeypatch, changes):
    monkeypatch.setattr(loader, "gpu", lambda model: torch.device("cpu"))
    put(folder, *made_up("one", **changes), Trust() if changes else None)
    with stand_in.loaded(None) as process:
        said = run(LoadEngine, engine="one", otherwise=TORCH, fallback=StandInEngine)[1]
    assert process.library is None and ("1.4.0.1" in said if changes else "not built by this installation" in said)


StandInEngine = SimpleNamespace(name="another")


def test_a_rebuild_for_other_weights_is_of_the_model_that_is_asked_for(base, player, folder):
    player.make("one")
    with pytest.raises(EngineFileError) as stale:
        run(LoadEngine, engine="one", otherwise=STOP, model=base)
    said = run(LoadEngine, engine="one", otherwise=TORCH, model=base)[1]
    assert stale.value.reason == "weights" and "--model random-base" in stale.value.remedy
    assert [line for line in said.splitlines() if line.startswith("- one: stale: ") and "--model random-base" in line]


def test_the_drop_down_tells_every_state(folder, in_comfyui, monkeypatch):
    from ostinato.engine_runtime.trt.library import preflight

    def tooltip():
        return LoadEngine.define_schema().inputs[0].tooltip

    put(folder, *made_up("good"), Trust())
    put(folder, *made_up("old", 1, library="1.4.0.1"), Trust())
    assert "good" not in tooltip(), "nobody sees it on the command line"
    in_comfyui({folders.ENGINES: [folder]})
    monkeypatch.setattr(preflight, "wheels", lambda flavor: {"x": LIBRARY} if flavor == "tensorrt_rtx" else {})
    monkeypatch.setattr(state, "library_of", lambda flavor: pytest.fail("a process was started"))
    folders.states_of.cache_clear()
    lines = tooltip().splitlines()
    assert lines[1] == "good: ready by its size, unverified on this GPU"
    assert lines[2].startswith("old: stale: the engine was built with tensorrt_rtx version 1.4.0.1; here it is")
    (folder / "old.plan").unlink()
    assert len(tooltip().splitlines()) == 2
    folders.states_of.cache_clear()
    monkeypatch.setattr(preflight, "wheels", lambda flavor: {})
    assert "good: stale: tensorrt_rtx is not installed" in tooltip()


# memory


def test_an_engine_that_was_put_away_comes_back_to_play(turbo, player):
    player.make("one")
    engine = run(LoadEngine, engine="one", otherwise=STOP, model=turbo)[0]
    with runtime().playing("x", engine, StreamConfig()):
        assert not loader.put_away(engine) and is_open(engine), "it plays"
    with loader.busy(engine):
        assert not loader.put_away(engine) and is_open(engine), "it is written"
    assert loader.put_away(engine) and not is_open(engine)
    engine.ready()
    assert is_open(engine) and run(LoadEngine, engine="one", otherwise=STOP, model=turbo)[0] is engine
    loader.put_away(engine)
    assert run(LoadEngine, "8", engine="one", otherwise=STOP, model=turbo)[0] is engine and is_open(engine)
    loader.drop("load 7"), loader.drop("load 8")
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.ready()


def test_another_plan_does_not_come_back_in_its_place(turbo, player):
    player.make("one")
    engine = run(LoadEngine, engine="one", otherwise=STOP, model=turbo)[0]
    loader.put_away(engine)
    player.make("one", EagerEngine(turbo.pipe.transformer, "another"))
    with pytest.raises(EngineFileError, match="one.plan was built anew meanwhile"):
        engine.ready()


def test_whoever_manages_memory_is_asked_before_an_engine_plays(turbo, player):
    player.make("one")
    asked = []

    def bring(engine, open_again):
        asked.append(loader.room_of(engine) if is_open(engine) else 0)
        open_again()

    with host.use(host.Host(bring=bring)):
        engine = run(LoadEngine, engine="one", otherwise=STOP, model=turbo)[0]
        assert asked == [engine.sidecar.plan_bytes + (3 << 20)]
        loader.put_away(engine)
        engine.ready()
    assert asked[1:] == [0] and is_open(engine)


# adapters


@pytest.fixture
def baking(turbo, player, files, monkeypatch):
    """A cached Refit LoRA, its adapters a and b, and what was written into each executor."""
    written = []

    class Writes(FakeRefit):
        def apply(self, mix, prove):
            written.append((self.engine.executor, [(a.digest, s) for a, s in mix]))
            super().apply(mix, prove)

    monkeypatch.setattr(bake, "Refit", Writes)
    monkeypatch.setattr(bake, "_check", lambda *_: None)
    player.make("b", refittable=True)
    mixes = [run(Lora, adapter=f"mine/{name}.safetensors", strength=1.0)[0] for name in "ab"]
    return (Cache(RefitLora, engine="b", model=turbo), *mixes, written)


def test_adapters_in_turn_are_what_is_given_out(baking):
    play, a, b, written = baking

    def given(mix):
        made = play(linked=("adapters", "model"), adapters=mix)
        return made[0].identity, made[1]

    first, second = given(a), given(b)
    assert first != second == given(b)
    assert given(a) == first == given(a) and given(b) == second
    assert len(written) == 4, "what is in the weights is not written again"


def test_adapters_come_back_with_their_engine(baking):
    play, a, _, written = baking
    engine = play(linked=("adapters",), adapters=a)[0]
    loader.put_away(engine)
    engine.ready()
    engine.ready()
    (before, mix), (after, again) = written
    assert mix == again and after is engine.executor is not before and is_open(engine)


def test_a_file_that_was_overwritten_is_heard(files, turbo):
    play = Cache(Lora, adapter="mine/a.safetensors", strength=1.0)
    play(), play()
    assert play.runs == 1
    os.utime(files / "a.safetensors", ns=(1, 1))
    play()
    assert play.runs == 2 and fingerprint(Lora, strength=1.0) == ""


def test_in_comfyui_an_adapter_is_one_of_its_folder(files, in_comfyui):
    in_comfyui({"loras": [files.parent]})
    assert folders.adapter_path("mine/a.safetensors") == files / "a.safetensors"
    for name in (str(files / "a.safetensors"), "../loras/mine/a.safetensors", "mine", ""):
        with pytest.raises(InputError, match="is not there"):
            folders.adapter_path(name)
    in_comfyui(None)
    with pytest.raises(InputError, match="is not there"):
        folders.adapter_path(str(files))
