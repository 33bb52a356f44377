"""ComfyUI's queue kept waiting while a stream is captured, on a stand-in that waits as the real one does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from ostinato.engine_runtime.errors import MemoryShortage
from ostinato.engine_runtime.models import comfy_queue
from ostinato.engine_runtime.models.comfy_queue import kept_waiting, loading

SECONDS = 10.0  # until a test that hangs fails


class Queue:
    """It takes a job, waits for its end, clears up, and waits for the next."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.not_empty = threading.Condition(self.mutex)
        self.queue: list[threading.Event] = []
        self.currently_running: dict[int, Any] = {}
        self.job_ends, self.cleared, self.began = (threading.Event() for _ in range(3))
        self.thread = threading.Thread(target=self._run, daemon=True)

    def put(self) -> None:
        with self.mutex:
            self.queue.append(threading.Event())
            self.not_empty.notify()

    def waits(self) -> bool:
        with self.mutex:
            return bool(self.not_empty._waiters)  # type: ignore[attr-defined]  # a private one

    def _run(self) -> None:
        while True:
            with self.not_empty:
                while not self.queue:
                    self.not_empty.wait()
                self.queue.pop()
                self.currently_running[0] = self
            self.began.set()
            assert self.job_ends.wait(SECONDS)
            with self.mutex:
                self.currently_running.clear()
            assert self.cleared.wait(SECONDS)
            self.cleared.clear()


@pytest.fixture
def comfy(prompt_queue: Callable[[object], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """ComfyUI's modules that are asked: `job` is what this thread is told of its own job."""
    found = SimpleNamespace(queue=Queue(), job=None)
    prompt_queue(found.queue)
    utils = SimpleNamespace(get_executing_context=lambda: found.job)
    monkeypatch.setitem(sys.modules, "comfy_execution", SimpleNamespace(utils=utils))
    monkeypatch.setitem(sys.modules, "comfy_execution.utils", utils)
    yield found
    found.queue.job_ends.set()
    found.queue.cleared.set()


def still() -> bool:
    with kept_waiting() as found:
        return found


def until(condition: Any) -> None:
    for _ in range(int(100 * SECONDS)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


@contextmanager
def elsewhere(context: AbstractContextManager[Any]) -> Iterator[threading.Event]:
    """Another thread inside a context for the length of the block; yields what tells that it is inside."""
    inside, leave = threading.Event(), threading.Event()

    def run() -> None:
        with context:
            inside.set()
            leave.wait(SECONDS)

    thread = threading.Thread(target=run)
    thread.start()
    yield inside
    leave.set()
    thread.join(SECONDS)


def test_without_comfyui_there_is_nobody_to_wait_for() -> None:
    assert still()


def test_it_is_kept_waiting_only_where_it_waits(comfy: SimpleNamespace) -> None:
    queue = comfy.queue
    assert not still(), "its thread has not begun"
    queue.thread.start()
    until(queue.waits)
    with kept_waiting() as found:
        assert found
        thread = threading.Thread(target=queue.put)
        thread.start()
        assert not queue.began.wait(0.2), "it must not begin a job meanwhile"
    thread.join(SECONDS)
    assert queue.began.wait(SECONDS) and not still(), "a job runs"
    queue.job_ends.set()
    until(lambda: not queue.currently_running)
    assert not still(), "it clears up"
    queue.cleared.set()
    until(queue.waits)
    assert still()
    queue.currently_running[1] = "a job of a second thread"
    assert not still(), "that one waits is not enough"


def test_a_block_that_raises_lets_it_go_on(comfy: SimpleNamespace) -> None:
    queue = comfy.queue
    queue.thread.start()
    until(queue.waits)
    with pytest.raises(KeyError), kept_waiting():
        raise KeyError("x")
    thread = threading.Thread(target=queue.put)
    thread.start()
    thread.join(SECONDS)
    assert queue.began.wait(SECONDS)


def test_a_job_need_not_wait_for_itself(comfy: SimpleNamespace) -> None:
    comfy.job = "this thread's"
    assert still()


def test_a_queue_that_somebody_changes_now_is_not_waited_for(comfy: SimpleNamespace) -> None:
    comfy.queue.thread.start()
    until(comfy.queue.waits)
    with elsewhere(comfy.queue.mutex) as held:
        assert held.wait(SECONDS) and not still()
    assert still()


def test_a_load_beside_the_queue_and_a_capture_keep_apart(
    comfy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager may wait for the whole device while it makes room."""
    monkeypatch.setattr(comfy_queue, "unloads", lambda: False)
    comfy.queue.thread.start()
    until(comfy.queue.waits)
    with ExitStack() as load:
        with kept_waiting() as found:
            assert found
            loads = load.enter_context(elsewhere(loading()))
            assert not loads.wait(0.2), "the capture goes on"
        assert loads.wait(SECONDS) and not still()
    assert still()


def test_a_load_waits_for_the_job_and_says_so_where_it_never_ends(
    comfy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy_queue, "unloads", lambda: False)
    monkeypatch.setattr(comfy_queue, "WAIT_SECONDS", 0.2)
    comfy.queue.currently_running[0] = "a job"
    with pytest.raises(MemoryShortage, match="ComfyUI's job has the memory"), loading():
        raise AssertionError("it must not load")
    comfy.queue.currently_running.clear()
    with loading():
        pass
