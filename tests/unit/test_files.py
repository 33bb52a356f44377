"""What somebody else wrote is read within bounds; what we write is whole or not there."""

import errno
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime import files
from ostinato.engine_runtime.errors import LONGEST, FileError, InputError, plain


@dataclass(frozen=True)
class Size:
    width: Annotated[int, msgspec.Meta(ge=1)]
    name: str = ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "no JSON"),
        ("[Infinity]", "no JSON"),
        ("1e999", "out of range"),
        ("1" + "0" * 400, "401 digits"),
        ("1" + "0" * 5000, "out of range"),
        (str(1 << 64), "20 digits"),
        ('"\\ud800"', "no JSON"),
        (b"\xff\xfe", "no JSON"),
        ("[" * 101 + "]" * 101, "100 levels"),
        ("[" * 200_000, "100 levels"),
        ("{", "no JSON"),
    ],
)
def test_json_is_strict(text, reason):
    with pytest.raises(InputError, match=reason):
        files.parse_json(text, "it")


def test_json_within_the_bounds_is_what_it_says():
    text = f'[{(1 << 64) - 1}, {-(1 << 63)}, 0.1, "ä", null]'
    assert files.parse_json(text, "it") == [
        2**64 - 1,
        -(2**63),
        0.1,
        "ä",
        None,
    ]
    assert files.parse_json("[" * 100 + "]" * 100, "it")


def test_fields_are_checked_by_their_place():
    assert files.parse_json('{"width": 3}', "it", Size) == Size(3)
    with pytest.raises(InputError, match=r"\$.width"):
        files.parse_json('{"width": 0}', "it", Size)
    with pytest.raises(InputError, match=r"\$.name"):
        files.parse_json('{"width": 1, "name": 2}', "it", Size)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_json_reads_what_python_writes(data):
    assert files.parse_json(json.dumps(data), "it") == data


@pytest.mark.skipif(os.name != "posix", reason="FIFOs and devices are POSIX's")
@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device", "folder"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "it"
    os.mkfifo(tmp_path / "fifo")
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "fifo")
    if kind == "fifo":
        path = tmp_path / "fifo"
    failures: list[Exception] = []

    def read() -> None:
        try:
            files.read_bytes(path, 10)
        except InputError as error:
            failures.append(error)

    thread = threading.Thread(target=read, daemon=True)  # a reader that waits for a writer would wait for ever
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert "no regular file" in str(failures[0])


def test_a_file_over_its_bound_is_not_read(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(b"12345")
    assert files.read_bytes(path, 5) == b"12345"
    with pytest.raises(InputError, match="5 bytes; at most 4"):
        files.read_bytes(path, 4)
    with pytest.raises(InputError, match="NUL"):
        files.read_bytes(Path("a\0b"), 4)
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / "none", 4)


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(errno.ENOSPC, "no space"), FileError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch, error, raised):
    path = tmp_path / "it"
    files.write_whole(path, b"before")

    def full(handle: int) -> None:
        raise error

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(raised) as caught:
        files.write_whole(path, b"after")
    assert raised is KeyboardInterrupt or caught.value.full and "the disk is full" in str(caught.value)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_files_have_the_users_mode_or_the_one_asked_for(tmp_path):
    mask = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "shared", b"")
        files.write_whole(tmp_path / "own", b"", 0o600)
        files.write_whole(tmp_path / "open", b"", 0o644)
    finally:
        os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"shared": 0o640, "own": 0o600, "open": 0o644}


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "folder/it"])
def test_names_that_no_file_can_have_are_refused_in_a_sentence(tmp_path, name):
    with pytest.raises(FileError):
        files.write_whole(tmp_path / name, b"")


@given(st.text())
def test_messages_are_short_and_print(text):
    line = plain(text)
    assert len(line) <= LONGEST + 5
    assert line.isprintable()
    line.encode()


def test_terminal_commands_are_shown_not_sent():
    error = InputError("the title is \x1b[2J\u202e\ud800 evil\n\n", "allowed", "do")
    assert str(error) == "the title is \\x1b[2J\\u202e\\ud800 evil; allowed; do."
    assert len(str(InputError("x" * 10_000, "y", "z"))) < 600
