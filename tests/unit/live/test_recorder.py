"""A recording holds what was heard, sample by sample, whatever happens meanwhile."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ostinato.engine_runtime.errors import FileError
from ostinato.engine_runtime.live.recorder import Recorder

from ...ear import until


class Source:
    """A session that is heard up to where a test says; only the last `kept` samples are here."""

    def __init__(self) -> None:
        self.closed, self.heard_until, self.kept = False, 0, 1 << 40
        self.sound = np.random.default_rng(0).integers(-9000, 9000, (1 << 20, 2)).astype("<i2")

    def heard_since(self, position: int) -> tuple[int, bytes]:
        start = max(position, self.heard_until - self.kept)
        return start, self.sound[start : self.heard_until].tobytes()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
def record(source: Source, failures: list[Exception], tmp_path: Path) -> Iterator[Callable[[], Recorder]]:
    made: list[Recorder] = []

    def begin() -> Recorder:
        made.append(Recorder(source, tmp_path / "new" / f"r{len(made)}.flac", failures.append, 0.005))
        return made[-1]

    yield begin
    for one in made:
        one.close()


def read(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 48_000
    return samples


def test_it_holds_what_was_heard_from_the_start_to_the_end(source: Source, record: Callable[[], Recorder]) -> None:
    source.heard_until = 1000
    one = record()
    for heard in (5000, 5001, 60_000, 60_000, 200_000):
        source.heard_until = heard
        until(lambda heard=heard: one.samples == heard - 1000)
    source.heard_until = 200_123  # what was heard just before the end is in it
    one.close()
    one.close()
    assert not one.running and one.missed == 0
    assert np.array_equal(read(one.path), source.sound[1000:200_123])


def test_it_ends_with_its_session(source: Source, record: Callable[[], Recorder]) -> None:
    one = record()
    source.heard_until, source.closed = 4800, True
    until(lambda: not one.running)
    assert np.array_equal(read(one.path), source.sound[:4800])


def test_what_is_no_longer_kept_is_counted(source: Source, record: Callable[[], Recorder]) -> None:
    source.kept = 1000
    one = record()
    source.heard_until = 5000
    until(lambda: one.samples == 1000)
    one.close()
    assert one.missed == 4000 and np.array_equal(read(one.path), source.sound[4000:5000])


def test_a_full_disk_is_told_and_the_file_holds_what_came_before(
    source: Source, record: Callable[[], Recorder], failures: list[Exception]
) -> None:
    """A limit on the size of files stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    one = record()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        for heard in range(20_000, 1 << 20, 20_000):
            source.heard_until = heard
            until(lambda heard=heard: one.samples == heard or not one.running)
        until(lambda: not one.running)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(failures[0], FileError) and len(failures) == 1
    with soundfile.SoundFile(one.path) as file:
        got = file.read(40_000, dtype="int16")
    assert np.array_equal(got, source.sound[:40_000])


def test_a_file_that_cannot_be_made_is_refused(source: Source, tmp_path: Path) -> None:
    (tmp_path / "there.flac").write_bytes(b"mine")
    for path in (tmp_path / "there.flac", tmp_path / "there.flac" / "below.flac"):
        with pytest.raises(FileError):
            Recorder(source, path, lambda error: None)
    assert (tmp_path / "there.flac").read_bytes() == b"mine"
