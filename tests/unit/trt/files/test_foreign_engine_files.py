"""What lies where engine files belong, whoever put it there: it hangs nothing, takes no node away, loses no engine."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ostinato.cli import main
from ostinato.engine_runtime import files
from ostinato.engine_runtime.bench import report
from ostinato.engine_runtime.errors import EngineBuildError, EngineFileError, InputError, ModelError, OstinatoError
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.profile.layers import LayerProfile, LayerTime, Workload, load
from ostinato.engine_runtime.trt.build.assemble import read_record
from ostinato.engine_runtime.trt.build.builder import build
from ostinato.engine_runtime.trt.files.folder import HOLDER, LOCK, claim, discard, holder, sweep
from ostinato.engine_runtime.trt.files.plan import accept, read_plan
from ostinato.engine_runtime.trt.files.sidecar import read_sidecar, rewritten, sidecar_path
from ostinato.engine_runtime.trt.files.spec import BuildSpec, make_spec
from ostinato.engine_runtime.trt.files.stamp import stamp
from ostinato.engine_runtime.trt.files.trust import KEY, MANIFEST, Trust
from ostinato.engine_runtime.trt.files.trust import LOCK as LIST_LOCK
from ostinato.engine_runtime.trt.health.doctor import GOOD, PROBLEM, examine_all
from ostinato.engine_runtime.trt.health.state import READY, UNUSABLE, health
from ostinato.nodes.load_engine import LoadEngine
from ostinato.nodes.refit_lora import RefitLora
from ostinato.nodes.shared import folders
from typer.testing import CliRunner

from ....engine_files import ADA, made_up, put
from ...refusal import check_sentence

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and modes as POSIX has them")
KNOWN = {"tensorrt_rtx": ADA}


@pytest.fixture
def trust(tmp_path, places):
    places(data=tmp_path / "home")
    return Trust()


@pytest.fixture
def engine(tmp_path, trust):
    return put(tmp_path / "engines", *made_up(), trust)


@pytest.fixture
def listed(engine, in_comfyui):
    """The options and the tooltip of the nodes that play engines, as ComfyUI asks for them."""
    in_comfyui({folders.ENGINES: [engine.parent]})
    folders.states_of.cache_clear()

    def ask() -> tuple[list[str], str]:
        shown = [node.define_schema().inputs[0] for node in (LoadEngine, RefitLora)]
        assert shown[0].options == shown[1].options
        return shown[0].options, shown[0].tooltip

    return ask


@pytest.fixture
def quick_doctor(on_machine):
    """Without the libraries, which other tests may have loaded."""
    on_machine(KNOWN)


def within(call: Callable[[], object], seconds: float = 10) -> object:
    """What a call returns, or the error of ours that it raises; it fails where the call does not come back."""
    came: list[object] = []

    def run() -> None:
        try:
            came.append(call())
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert came, "it hangs"
    if isinstance(came[0], BaseException) and not isinstance(came[0], OstinatoError):
        raise came[0]
    return came[0]


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


THINGS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a pipe": lambda path: (os.mkfifo(f"{path}.pipe"), path.symlink_to(f"{path}.pipe")),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a terabyte": huge,
    "no bytes": Path.touch,
    "no text": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "deep JSON": lambda path: path.write_text('{"a":[' * 100_000),
    "a long number": lambda path: path.write_text('{"schema": ' + "9" * 100_000 + "}"),
    "NaN": lambda path: path.write_text('{"schema": NaN}'),
    "half a letter": lambda path: path.write_text('{"schema": "\\ud800"}'),
    "a list": lambda path: path.write_text("[1]"),
}


def _record(path: Path) -> object:
    path.with_suffix("").write_bytes(b"graph")
    return read_record(path.with_suffix(""), BuildSpec("one", "tensorrt_rtx", made_up()[1].profiles, onnx="x.onnx"))


def _kept(path: Path) -> object:
    made = files.kept(path.name, lambda: b"anew")
    assert made == b"anew"
    return made


# by the file's name: what reads it, and the error, where it raises one
READERS: dict[str, tuple[Callable[[Path, Path], object], type[OstinatoError] | None]] = {
    "one.plan.json": (lambda path, plan: read_sidecar(plan), EngineFileError),
    "one.plan": (lambda path, plan: read_plan(plan, ADA), EngineFileError),
    MANIFEST: (lambda path, plan: read_plan(plan, ADA), EngineFileError),
    KEY: (lambda path, plan: read_plan(plan, ADA), EngineFileError),
    HOLDER: (lambda path, plan: holder(path.parent), None),
    "one.onnx.json": (lambda path, plan: _record(path), EngineBuildError),
    "profile.json": (lambda path, plan: load(path), InputError),
    "bench.json": (lambda path, plan: report.load(path), InputError),
    "kept": (lambda path, plan: _kept(path), None),
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("name", READERS)
def test_whatever_lies_in_a_files_place_is_told(name, thing, engine, trust, listed, places):
    read, kind = READERS[name]
    path = (trust.home if name in (MANIFEST, KEY) else engine.parent) / name
    places(cache=path.parent)
    path.unlink(missing_ok=True)
    THINGS[thing](path)
    try:
        error = within(lambda: read(path, engine))
    except OSError:  # of the user's own files, whose place the command line names
        assert name in ("profile.json", "bench.json") and thing == "a link to itself"
        return
    assert type(error) is kind if kind else not isinstance(error, Exception)
    if kind:
        check_sentence(error)
    options, told = within(listed)
    assert options == ["one"] and "\none: " in told
    assert ("unusable" in told) == (name in ("one.plan.json", "one.plan", MANIFEST, KEY))
    assert within(lambda: stamp(engine)) is not None


def test_no_build_waits_for_a_pipe(tmp_path):
    graph, cache = tmp_path / "one.onnx", tmp_path / ".timing.cache"
    os.mkfifo(graph), os.mkfifo(cache)
    record = {**made_up()[1].export, "lora": None}
    graph.with_name("one.onnx.json").write_text(json.dumps(record))
    spec = made_up()[1].spec
    refused = within(lambda: read_record(graph, spec))
    assert isinstance(refused, EngineBuildError) and "is no regular file" in refused.given
    assert isinstance(within(lambda: build(graph, record, spec, cache)), InputError)


# -- no file takes a node away


def test_a_number_that_is_none_is_an_entry_with_its_reason(engine, listed):
    data = json.loads(sidecar_path(engine).read_text())
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        text = json.dumps({**data, "flags": {"x": 5.25}}).replace("5.25", number)
        sidecar_path(engine).write_text(text)
        options, told = listed()
        assert options == ["one"] and "one: unusable: one.plan.json is no JSON" in told


def test_a_manifest_with_foreign_letters_is_not_ours(engine, trust, listed):
    data = json.loads((trust.home / MANIFEST).read_text())
    (trust.home / MANIFEST).write_text(json.dumps({**data, "hmac": "\u00e9" * 64}))
    assert trust.known() is None and "not signed" in listed()[1]


@pytest.mark.parametrize("name", [b"a b.plan", b"\xff\xfe.plan", b"\x1b[2J.plan", b"x" * 200 + b".plan"])
def test_an_engine_of_any_name_is_told(name, engine, listed, quick_doctor):
    (engine.parent / os.fsdecode(name)).write_bytes(b"vtrt")
    options, told = listed()
    assert options == ["one"] and "the engine's name is" in told
    assert told.replace("\n", "").isprintable()
    texts = "\n".join(found.text() for found in examine_all(engine.parent))
    assert "one.plan is ready by its size" in texts and texts.replace("\n", "").isprintable()


def test_a_tooltip_tells_of_no_more_than_it_has_room_for(engine, listed):
    for i in range(60):
        (engine.parent / f"junk{i}.plan").write_bytes(b"x" * 5000)
    options, told = listed()
    assert len(options) == 61 and told.count("\n") == 51 and told.endswith("and 11 more")


@pytest.mark.parametrize("broken", ["roots", "states_of"])
def test_what_nobody_foresaw_takes_no_node_away(broken, engine, listed, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(folders, broken, fails)
    options, told = listed()
    assert options == (["one"] if broken == "states_of" else [folders.NOTHING])
    assert "cannot be told: the driver is gone" in told and "the driver is gone" in caplog.text


# -- what commands say


def test_a_command_that_is_asked_about_an_engine_reads_it_whole(engine, monkeypatch, quick_doctor, tmp_path):
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    seen = CliRunner().invoke(main.app, ["inspect", str(engine)])
    assert seen.exit_code == 1 and "one: unusable: the bytes of one.plan are not those that were built" in seen.output
    looked = CliRunner().invoke(main.app, ["doctor", "--engine", str(engine), "--no-check"])
    assert looked.exit_code == 1 and "not those that were built" in looked.output
    listing = CliRunner().invoke(main.app, ["doctor", "--engines", str(engine.parent)])
    assert "one.plan is ready by its size, unverified on this GPU" in listing.output


def test_what_a_sidecar_says_sends_a_terminal_no_commands(tmp_path, trust, quick_doctor, monkeypatch):
    evil = "a/\x1b]0;owned\x07\x1b[2J\u202e\r\n$(x)"
    plan, sidecar = made_up()
    spec = replace(sidecar.spec, model=evil)
    export = sidecar.export | {"precision": evil}
    path = put(tmp_path / "engines", plan, replace(sidecar, spec=spec, export=export, built=evil), trust)
    for words in (["inspect", str(path)], ["doctor", "--engine", str(path), "--no-check"]):
        told = CliRunner().invoke(main.app, words).output
        assert told.replace("\n", "").isprintable() and "\\x1b" in told
    assert "hf download 'a/" in told


def test_what_a_table_says_sends_a_terminal_no_commands(tmp_path):
    evil = "\x1b[2J\u202e\n"
    layers = (LayerTime(evil, "other", 1.0, 1.0),)
    profile = LayerProfile(evil, evil, evil, Workload(guidance=evil), 1, 1.0, 1.0, layers)
    (tmp_path / "a.json").write_text(json.dumps(profile.as_json()))
    (tmp_path / "b.json").write_text(json.dumps(replace(profile, device="x", clock="y").as_json()))
    told = (
        CliRunner().invoke(main.app, ["profile", "--diff", str(tmp_path / "a.json"), str(tmp_path / "b.json")]).output
    )
    told += load(tmp_path / "a.json").text()
    assert told.count("\\x1b") >= 5 and told.replace("\n", "").isprintable()


def test_a_folder_that_cannot_be_written_to_has_findings(engine, quick_doctor):
    (engine.parent / ".build-dead").mkdir()
    (engine.parent / LOCK).mkdir()  # who may not write finds no lock
    seen = CliRunner().invoke(main.app, ["doctor", "--engines", str(engine.parent)])
    assert seen.exit_code == 1 and "one.plan is ready" in seen.output
    found = {one.what: one for one in examine_all(engine.parent)}
    (what,) = [what for what in found if "dead builds left .build-dead" in what]
    assert found[what].level == PROBLEM and found[what].remedy and "cannot be written" in what


def test_a_build_that_runs_is_no_dead_one(engine, quick_doctor):
    (engine.parent / ".build-now").mkdir()
    with claim(engine.parent, "two", False, lambda _: False):
        (engine.parent / ".build-now").mkdir()
        found = [one for one in examine_all(engine.parent) if "build" in one.what]
    assert [one.level for one in found if "the build of two" in one.what] == ["note"]
    assert (engine.parent / ".build-now").is_dir()


# -- no good engine is lost


def _left(engine: Path, **changes: object) -> Path:
    """A sidecar of the engine that is in place, as a dead build would leave it."""
    work = engine.parent / ".build-dead"
    work.mkdir()
    left = replace(read_sidecar(engine), **changes)
    (work / f"{engine.name}.json").write_bytes(rewritten(left))
    return work


@pytest.mark.parametrize("in_place", ["whole", "broken"])
def test_a_sidecar_that_was_left_takes_no_place_without_trust(in_place, engine, trust):
    work, kept = _left(engine, refittable=True), sidecar_path(engine)
    if in_place == "broken":
        kept.write_text("{}")
    before = kept.read_bytes()
    assert not discard(work, trust.has) and not work.exists()
    assert kept.read_bytes() == before


def test_a_sidecar_that_was_left_takes_no_place_of_a_good_one(engine, trust):
    trust.write_proof(engine, {"gpu": "A GPU"})
    assert not discard(_left(engine, proof=None), trust.has)
    assert read_plan(engine, ADA, trust)[1].proof == {"gpu": "A GPU"}


def test_a_sidecar_that_was_left_is_put_where_the_one_in_place_is_broken(engine, trust):
    work = _left(engine)
    sidecar_path(engine).write_text("{}")
    assert discard(work, trust.has)
    assert read_plan(engine, ADA, trust) == made_up()


def test_what_dead_builds_left_is_looked_for_in_folders_alone(engine, trust):
    (engine.parent / ".build-file").write_text("mine")
    (engine.parent / ".build-link").symlink_to(trust.home)
    assert sweep(engine.parent, trust.has) == []
    assert (trust.home / KEY).exists() and (engine.parent / ".build-file").exists()


@pytest.mark.parametrize("lock", ["folder", "list"])
def test_a_link_in_place_of_the_lock_loses_nothing(lock, engine, trust, tmp_path):
    """filelock 3.12.0 emptied what it led to."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    path = engine.parent / LOCK if lock == "folder" else trust.home / LIST_LOCK
    path.unlink(missing_ok=True)
    path.symlink_to(mine)
    with pytest.raises(EngineFileError, match="cannot be written") as caught:
        if lock == "list":
            trust.record(made_up("two", 2)[1])
        else:
            with claim(engine.parent, "two", False, trust.has):
                pass
    check_sentence(caught.value)
    assert mine.read_text() == "precious"


def test_what_is_accepted_is_the_engine_with_its_sidecar(tmp_path, trust):
    """Whoever puts another sidecar beside a plan that is known by its hash is noticed."""
    plan, sidecar = made_up()
    path = put(tmp_path / "engines", plan, replace(sidecar, refittable=True))
    for named in (sidecar.identity(), sidecar.plan_sha256):
        with pytest.raises(EngineFileError, match="with its sidecar is") as caught:
            accept(path, named, trust)
        check_sentence(caught.value)
    put(tmp_path / "engines", plan, sidecar)
    accept(path, sidecar.identity(), trust)
    assert read_plan(path, ADA, trust) == (plan, sidecar)
    put(tmp_path / "engines", plan[::-1], sidecar)
    with pytest.raises(EngineFileError, match="not those that were built"):
        accept(path, sidecar.identity(), trust)


def test_inspect_tells_what_to_accept(tmp_path, trust, quick_doctor):
    path = put(tmp_path / "engines", *made_up())
    seen = json.loads(CliRunner().invoke(main.app, ["inspect", str(path), "--json"]).output)
    assert seen["state"] == UNUSABLE and seen["reason"] == "untrusted"
    accept(path, seen["identity"], trust)
    assert health(path, KNOWN, whole=True).state == READY


# -- full disks, small shapes, names that are no text


@pytest.mark.parametrize("bytes_free", [0, 100_000])
def test_a_full_cache_folder_is_told(bytes_free, tmp_path, places):
    """The system's limit on a file's size stands for a full disk."""
    places(cache=tmp_path / "cache")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, before[1]))
    try:
        with pytest.raises(ModelError, match="could not be written") as caught:
            preset_folder("random")
        assert files.kept("a", lambda: bytes(200_000)) == bytes(200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_sentence(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("texts", [{"seconds": "1:1:2"}, {"seconds": "2:4:8,1:1:2"}, {"seconds": "0.08:2:2.4"}])
def test_lengths_that_tensorrt_rtx_does_not_take_are_refused(texts):
    texts = {"batch": "1:2:2", "tokens": "16:16:32", **texts}
    with pytest.raises(InputError, match="the longest of the seconds is 2(.4)?;.*2.48 or more") as caught:
        make_spec("rtx", "decoder", {"model": "tiny"}, texts)
    check_sentence(caught.value)


@pytest.mark.parametrize(
    ("flavor", "kind", "precision", "seconds"),
    [
        ("rtx", "decoder", "bf16", "0.08:2:2.48"),
        ("rtx", "decoder", "bf16", "1"),
        ("rtx", "decoder", "fp32", "1:1:2"),
        ("tensorrt", "decoder", "bf16", "1:1:2"),
        ("rtx", "vae_decoder", "fp32", "1:1:2"),
    ],
)
def test_lengths_that_are_built_are_not(flavor, kind, precision, seconds):
    assert make_spec(flavor, kind, {"model": "tiny"}, {"seconds": seconds}, None, precision)


def test_a_model_whose_path_is_no_text_is_refused_before_the_build(tmp_path):
    with pytest.raises(InputError, match="is no UTF-8") as caught:
        make_spec("rtx", "decoder", {"model": os.fsdecode(b"/models/\xff")}, {}, "one")
    check_sentence(caught.value)


def test_engines_in_a_folder_whose_name_is_no_text_are_found(tmp_path, trust, quick_doctor):
    path = put(tmp_path / os.fsdecode(b"\xff"), *made_up(), trust)
    assert health(path, KNOWN, trust).state == READY
    found = examine_all(path.parent)
    assert "ready" in [one for one in found if one.level == GOOD][-1].what
    assert all(one.text().replace("\n", "").isprintable() for one in found)
