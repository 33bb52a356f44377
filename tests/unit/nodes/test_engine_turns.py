"""What Load Engine gives out and when it runs again: after a change, a shortage, and not for nothing."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.config import StreamConfig
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.prove import Corner, concluded
from ostinato.engine_runtime.errors import EngineError, EngineFileError, MemoryShortage
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.trt import bake, loader
from ostinato.engine_runtime.trt.build.job import State
from ostinato.engine_runtime.trt.files.plan import accept
from ostinato.engine_runtime.trt.files.sidecar import read_sidecar, sidecar_path
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.health import state
from ostinato.nodes.build_engine import BuildEngine
from ostinato.nodes.load_engine import STOP, TORCH, LoadEngine
from ostinato.nodes.refit_lora import RefitLora
from ostinato.nodes.shared import engine_owner, folders, host

from ... import trt_stand_in as stand_in
from ...engine_files import LIBRARY, made_up, put
from .engine_nodes import ASKED, Cache, FakeRefit, fingerprint, is_open, passes, run

pytestmark = pytest.mark.usefixtures("folder")
CORNER = Corner("smallest", 1, 2, 1, None, max_abs=0.0, relative=0.0, peak=1.0)


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
