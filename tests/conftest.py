"""Shared by every tier: the built-in models, loaded once, and cached conditions."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

# OpenMP's threads spin while they wait for each other. Where another process has their core, a test on two threads took
# 45 s so, and 1 s asleep; it is read once, when PyTorch is loaded, here and in the processes that tests begin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from . import locks  # noqa: E402

locks.watch()  # before the package makes any

from ostinato.engine_runtime.models.conditioning import encode_prompt  # noqa: E402
from ostinato.engine_runtime.models.loading import Model, load  # noqa: E402
from ostinato.engine_runtime.models.prompt import Prompt  # noqa: E402
from ostinato.engine_runtime.stream.request import Condition  # noqa: E402

from . import exports, helpers  # noqa: E402

# Cores are shared, so time says nothing; on CI a run must not depend on the day.
settings.register_profile("ostinato", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ostinato")

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0))  # 0 is pytest without pytest-xdist
if WORKERS:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))


def pytest_collection_finish() -> None:
    """Leave what was imported out of later collections of garbage: each took 0.27 s, and takes a tenth of that."""
    gc.collect()
    gc.freeze()


TAGS = ("warm piano", "fast techno with bass drums and a deep synth pad", "sad violin", "happy choir at night")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home for the presets that goes with the session, unless one is set."""
    if os.environ.get("OSTINATO_CACHE"):
        yield
        return
    os.environ["OSTINATO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["OSTINATO_CACHE"]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`places(data=..., cache=..., comfyui=..., models=..., here=...)`: the folders where the pack looks, by its
    environment variables, and the working folder. Engines lie in that of data.
    """

    def look(here: os.PathLike | None = None, **folders: os.PathLike | str) -> None:
        monkeypatch.delenv("OSTINATO_ENGINES", raising=False)
        for name, folder in folders.items():
            monkeypatch.setenv("COMFYUI_PATH" if name == "comfyui" else f"OSTINATO_{name.upper()}", str(folder))
        if here is not None:
            monkeypatch.chdir(here)

    return look


@pytest.fixture(scope="session")
def turbo(cache: None) -> Model:
    return load("random", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def base(cache: None) -> Model:
    return load("random-base", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def graphs(turbo: Model, base: Model, tmp_path_factory: pytest.TempPathFactory) -> exports.Graphs:
    """`graphs(name)`: an exported graph and its model. Processes of pytest-xdist share the files."""
    if WORKERS:
        folder = tmp_path_factory.getbasetemp().parent / "graphs"
        folder.mkdir(exist_ok=True)
    else:
        folder = tmp_path_factory.mktemp("graphs")
    return exports.Graphs(turbo, base, folder)


@pytest.fixture(scope="session")
def conditions() -> Callable[[Model, int, int], list[Condition]]:
    """`conditions(model, frames, k)`: k text2music conditions of different token counts, encoded once a session."""
    made: dict[tuple[int, int, int], Condition] = {}

    def get(model: Model, frames: int, k: int) -> list[Condition]:
        for i in range(k):
            if (id(model), frames, i) not in made:
                prompt = Prompt(TAGS[i % len(TAGS)], "la la " * i, seconds=frames / 25)
                made[id(model), frames, i] = encode_prompt(model, prompt)
        return [made[id(model), frames, i] for i in range(k)]

    return get


@pytest.fixture(scope="session")
def play() -> Callable[..., list[torch.Tensor]]:
    """`helpers.play`, for tests that would rather not import."""
    return helpers.play


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """`torch.set_num_threads`, undone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_order_of_locks() -> Iterator[None]:
    """No test may take the package's locks in another order than the one that is written down."""
    yield
    found, locks.violations[:] = sorted(set(locks.violations)), []
    assert not found, "\n".join(found)
