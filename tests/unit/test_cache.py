"""What is kept in the cache folder is made once, and again where it was damaged or the folder cannot be used."""

import pytest
from ostinato.engine_runtime.files import cache_home, kept


@pytest.fixture
def made(places, tmp_path):
    """Makes bytes that say how many were made before."""
    places(cache=tmp_path / "not yet there")
    count = []

    def make():
        count.append(1)
        return b"made %d" % len(count)

    return make


def test_it_is_made_once(made):
    assert kept("kernels/a", made) == kept("kernels/a", made) == b"made 1"
    assert kept("kernels/b", made) == b"made 2"
    assert {path.name for path in (cache_home() / "kernels").iterdir()} == {"a", "b"}


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:10], lambda data: b"", lambda data: b"x" + data]
)
def test_what_is_damaged_is_made_again(made, damage):
    kept("a", made)
    path = cache_home() / "a"
    path.write_bytes(damage(path.read_bytes()))
    assert kept("a", made) == b"made 2" and kept("a", made) == b"made 2"


def test_a_folder_that_cannot_be_used_is_no_failure(made, places, tmp_path):
    (tmp_path / "file").write_text("in the way")
    places(cache=tmp_path / "file")
    assert kept("a", made) == b"made 1" and kept("a", made) == b"made 2"


def test_what_cannot_be_put_in_place_leaves_nothing(made):
    """As on Windows, where another process has the file open; here a folder has its name."""
    (cache_home() / "a").mkdir(parents=True)
    assert kept("a", made) == b"made 1"
    assert list(cache_home().iterdir()) == [cache_home() / "a"] and kept("a", made) == b"made 2"


def test_what_cannot_be_made_leaves_nothing(made):
    def fails():
        raise ValueError("no compiler")

    with pytest.raises(ValueError):
        kept("a", fails)
    assert kept("a", made) == b"made 1"
