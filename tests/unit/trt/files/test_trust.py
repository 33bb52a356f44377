"""Which engines may be opened: built here, or accepted by name; and what a manifest from elsewhere is worth."""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import replace

import pytest
from ostinato.cli import main
from ostinato.engine_runtime.engines.prove import Proof
from ostinato.engine_runtime.errors import EngineFileError
from ostinato.engine_runtime.trt.files.plan import accept, read_plan
from ostinato.engine_runtime.trt.files.sidecar import digest, read_sidecar, rewritten, sidecar_path
from ostinato.engine_runtime.trt.files.trust import KEY, MANIFEST, Trust
from ostinato.engine_runtime.trt.health.state import health
from typer.testing import CliRunner

from ....engine_files import ADA, made_up, put
from ...refusal import check_sentence

POSIX = pytest.mark.skipif(os.name != "posix", reason="modes and links as POSIX has them")
PROOF = {"gpu": "A GPU", "corners": [{"relative": 0.01}]}


@pytest.fixture
def trust(tmp_path):
    return Trust(tmp_path / "home")


@pytest.fixture
def engine(tmp_path, trust):
    return put(tmp_path / "engines", *made_up(), trust)


def refused(trust, plan, reason):
    with pytest.raises(EngineFileError) as caught:
        read_plan(plan, ADA, trust)
    assert caught.value.reason == reason, caught.value
    check_sentence(caught.value)
    return caught.value


def manifest(trust):
    return json.loads((trust.home / MANIFEST).read_text())


def test_the_key_is_for_its_owner_alone(engine, trust):
    assert len((trust.home / KEY).read_bytes()) == 32
    if os.name == "posix":
        assert [(trust.home / name).stat().st_mode & 0o777 for name in (KEY, MANIFEST)] == [0o600, 0o600]


def test_an_engine_that_nobody_built_here_is_refused(tmp_path, trust):
    plan = put(tmp_path / "engines", *made_up())
    error = refused(trust, plan, "untrusted")
    assert f"ostinato doctor --accept {made_up()[1].identity()} --engine {plan}" in error.remedy
    put(tmp_path / "engines", *made_up("other", 1), trust)  # a manifest that does not name it
    refused(trust, plan, "untrusted")


def test_an_engine_of_another_installation_is_refused(engine, tmp_path):
    refused(Trust(tmp_path / "theirs"), engine, "untrusted")


def test_a_manifest_signed_with_another_key_is_refused(engine, trust, tmp_path):
    theirs = Trust(tmp_path / "theirs")
    theirs.record(made_up("other", 1)[1])
    (theirs.home / MANIFEST).write_bytes((trust.home / MANIFEST).read_bytes())
    refused(theirs, engine, "key")
    assert theirs.known() is None


def _forge(trust, change):
    data = manifest(trust)
    change(data)
    (trust.home / MANIFEST).write_text(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["plans"].update({"f" * 64: next(iter(data["plans"].values()))}),
        lambda data: next(iter(data["plans"].values())).update(how="accepted"),
        lambda data: data.update(hmac="0" * 64),
        lambda data: data.update(hmac=None),
        lambda data: data.pop("hmac"),
        lambda data: data.update(schema=2),
        lambda data: data.update(plans=[]),
    ],
)
def test_a_manifest_that_was_edited_is_refused(engine, trust, change):
    _forge(trust, change)
    refused(trust, engine, "key")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_broken_is_refused(engine, trust, data):
    (trust.home / MANIFEST).write_bytes(data)
    refused(trust, engine, "key")


def test_a_lost_key_makes_its_manifest_worthless(engine, trust):
    (trust.home / KEY).unlink()
    refused(trust, engine, "key")
    assert not (trust.home / KEY).exists()  # asking makes no key


def test_the_next_build_starts_a_list_of_its_own(engine, trust, tmp_path):
    """It must not sign what it did not write: a forged entry would come in with the first build."""
    plan, sidecar = made_up("forged", 5)
    entry = {"name": "forged", "how": "built", "sidecar": sidecar.identity(), "since": "", "proof": None}
    _forge(trust, lambda data: data["plans"].update({sidecar.plan_sha256: entry}))
    forged = put(tmp_path / "engines", plan, sidecar)
    refused(trust, forged, "key")
    fresh = put(tmp_path / "engines", *made_up("fresh", 2), trust)
    assert read_plan(fresh, ADA, trust)[1].spec.name == "fresh"
    refused(trust, forged, "untrusted")
    refused(trust, engine, "untrusted")
    assert (trust.home / f"{MANIFEST}.refused").is_file()


@pytest.mark.parametrize("key", [b"", b"short", bytes(33)])
def test_a_key_of_another_length_is_refused(engine, trust, key):
    (trust.home / KEY).write_bytes(key)
    assert str(trust.home / KEY) in refused(trust, engine, "key").remedy


@POSIX
def test_a_key_that_others_may_read_is_refused(engine, trust):
    (trust.home / KEY).chmod(0o640)
    assert "mode 640" in refused(trust, engine, "key").given


@POSIX
def test_a_key_that_is_a_link_is_refused(engine, trust, tmp_path):
    os.replace(trust.home / KEY, tmp_path / "key")
    (trust.home / KEY).symlink_to(tmp_path / "key")
    refused(trust, engine, "key")


def test_builds_at_once_lose_no_entry(trust, tmp_path):
    engines = [put(tmp_path / "engines", *made_up(f"e{i}", i)) for i in range(12)]
    threads = [threading.Thread(target=Trust(trust.home).record, args=(read_sidecar(plan),)) for plan in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read_plan(plan, ADA, trust)[1].spec.name for plan in engines] == [f"e{i}" for i in range(12)]


# -- acceptance by name


def test_an_accepted_engine_is_read(tmp_path, trust):
    plan = put(tmp_path / "engines", *made_up())
    accept(plan, made_up()[1].identity().upper(), trust)
    assert read_plan(plan, ADA, trust) == made_up()
    assert trust.standing(made_up()[1]) == "accepted"


def test_an_accepted_engine_brings_no_proof_of_its_own(tmp_path, trust):
    """Its sidecar names this GPU and figures that pass; whoever wrote it, nobody compared anything here."""
    corner = {"name": "minimum", "batch": 1, "frames": 50, "tokens": 16, "rank": None}
    figures = corner | {"max_abs": 0.0, "relative": 0.0, "peak": 3.0, "finite": True}
    words = dict.fromkeys(("engine", "reference", "driver", "date"), "")
    proof = {**words, "gpu": ADA.device, "seed": 0, "dtype": "bfloat16", "corners": [figures]}
    assert Proof.of(proof) is not None
    plan = put(tmp_path / "engines", *made_up(proof=proof))
    assert accept(plan, made_up()[1].identity(), trust).proof is None
    assert read_plan(plan, ADA, trust)[1].proof is None
    assert not health(plan, {"tensorrt_rtx": ADA}, trust).verified


@pytest.mark.parametrize("given", ["f" * 64, "", "abc"])
def test_another_hash_accepts_nothing(tmp_path, trust, given):
    plan = put(tmp_path / "engines", *made_up())
    with pytest.raises(EngineFileError, match="sha256") as caught:
        accept(plan, given, trust)
    check_sentence(caught.value)
    refused(trust, plan, "untrusted")


def test_what_was_accepted_is_the_file_and_not_its_name(tmp_path, trust):
    plan = put(tmp_path / "engines", *made_up())
    accept(plan, made_up()[1].identity(), trust)
    put(tmp_path / "engines", *made_up("one", 9))
    refused(trust, plan, "untrusted")


def test_the_command_accepts_by_hash(tmp_path, trust, on_machine, places):
    places(data=trust.home)
    plan = put(tmp_path / "engines", *made_up())
    sha = made_up()[1].identity()
    wrong = CliRunner().invoke(main.app, ["doctor", "--accept", "f" * 64, "--engine", str(plan)])
    assert wrong.exit_code == 1 and sha in wrong.stderr
    alone = CliRunner().invoke(main.app, ["doctor", "--accept", sha])
    assert alone.exit_code == 2 and "--engine" in alone.stderr
    refused(trust, plan, "untrusted")
    on_machine({"tensorrt_rtx": ADA})
    right = CliRunner().invoke(main.app, ["doctor", "--accept", sha, "--engine", str(plan)])
    assert "one.plan is ready, unverified on this GPU" in re.sub(r"\s+", " ", right.stdout)
    assert right.exit_code == 0 and read_plan(plan, ADA, trust) == made_up()


# -- the proof


def test_a_proof_is_written_and_read(engine, trust):
    assert not trust.proven(read_plan(engine, ADA, trust)[1])
    trust.write_proof(engine, PROOF)
    data, sidecar = read_plan(engine, ADA, trust)
    assert data == made_up()[0] and sidecar.proof == PROOF and trust.proven(sidecar)
    trust.write_proof(engine, None)
    assert read_plan(engine, ADA, trust)[1].proof is None


def test_a_proof_that_was_written_by_hand_counts_for_nothing(engine, trust):
    sidecar_path(engine).write_bytes(rewritten(read_sidecar(engine), proof=PROOF))
    assert read_plan(engine, ADA, trust)[1].proof is None
    trust.write_proof(engine, PROOF)
    better = {**PROOF, "gpu": "Another GPU"}
    sidecar_path(engine).write_bytes(rewritten(read_sidecar(engine), proof=better))
    assert read_plan(engine, ADA, trust)[1].proof is None


def test_a_proof_that_is_not_there_is_not_written_again(engine, trust):
    """The sidecar stays the same file: a watcher of it would see a new engine."""
    before = sidecar_path(engine).stat()
    assert trust.write_proof(engine, None).proof is None
    assert os.path.samestat(before, sidecar_path(engine).stat())
    sidecar_path(engine).write_bytes(rewritten(read_sidecar(engine), proof=PROOF))
    trust.write_proof(engine, None)
    assert read_sidecar(engine).proof is None
    trust.write_proof(engine, PROOF)
    kept = sidecar_path(engine).read_bytes()
    sidecar_path(engine).write_bytes(rewritten(read_sidecar(engine), proof=None))
    trust.write_proof(engine, None)
    sidecar_path(engine).write_bytes(kept)
    assert not trust.proven(read_sidecar(engine)), "what was taken out does not come back with an older file"


def test_figures_are_kept_with_the_plan_that_they_are_of(engine, trust, tmp_path):
    checked = read_sidecar(engine)
    put(tmp_path / "engines", *made_up("one", 2), trust)
    with pytest.raises(EngineFileError, match="replaced while it was checked") as caught:
        trust.write_proof(engine, PROOF, checked)
    check_sentence(caught.value)
    assert read_sidecar(engine).proof is None


def test_only_a_trusted_engine_gets_a_proof(tmp_path, trust):
    plan = put(tmp_path / "engines", *made_up())
    with pytest.raises(EngineFileError):
        trust.write_proof(plan, PROOF)
    assert read_sidecar(plan).proof is None


def test_a_rebuilt_engine_has_no_proof(engine, trust, tmp_path):
    trust.write_proof(engine, PROOF)
    put(tmp_path / "engines", *made_up("one", 2), trust)
    assert read_plan(engine, ADA, trust)[1].proof is None


def test_an_identity_is_all_but_the_proof():
    _, sidecar = made_up()
    assert replace(sidecar, proof=PROOF).identity() == sidecar.identity()
    changed = [replace(sidecar, refittable=True), replace(sidecar, built="2027"), replace(sidecar, flags={"a": 1})]
    assert len({one.identity() for one in (*changed, sidecar)}) == 4
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
