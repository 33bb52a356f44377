"""Threads that compute alone: nobody else's team changes, work runs side by side, and nothing waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import torch
from ostinato.engine_runtime.device import workers as module
from ostinato.engine_runtime.device.workers import Workers, in_turn, is_large, leave_team, own_workers, workers
from ostinato.engine_runtime.registry import registry

PATIENCE = 60.0  # seconds


def elsewhere(body: Callable[[], Any]) -> Any:
    """Run a body in a thread that is new to PyTorch, while no worker begins."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(body()))
    with module._beginning:
        pass
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return found[0]


@pytest.fixture(params=[2, 3])
def team(request: pytest.FixtureRequest) -> Iterator[int]:
    """A team of two or three, and workers that are not there yet."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with registry.fresh(Workers):
        yield request.param
        workers().close()
    torch.set_num_threads(before)


def test_a_worker_computes_alone_and_nobody_else_notices(team: int) -> None:
    assert workers().count == team
    assert workers().each([torch.get_num_threads] * 5) == [1] * 5
    assert torch.get_num_threads() == team
    assert elsewhere(torch.get_num_threads) == team


def test_a_thread_that_leaves_its_team_leaves_it_alone(team: int) -> None:
    def left() -> tuple[int, int]:
        leave_team()
        return torch.get_num_threads(), Workers().count

    assert elsewhere(left) == (1, team)
    assert elsewhere(torch.get_num_threads) == team


def test_several_leave_at_the_same_time(team: int) -> None:
    def all_of_them() -> None:
        threads = [threading.Thread(target=leave_team) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_of_them()
    assert elsewhere(torch.get_num_threads) == team


def test_results_come_in_order(team: int) -> None:
    assert workers().each([lambda i=i: i for i in range(20)]) == list(range(20))  # type: ignore[misc]
    assert workers().each([]) == []


def test_bodies_run_side_by_side_and_no_more_of_them_than_the_team_had(team: int) -> None:
    meet, running, most = threading.Barrier(team), [0], [0]
    lock = threading.Lock()

    def body() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        meet.wait(PATIENCE)  # broken where they run one after the other
        with lock:
            running[0] -= 1
        meet.wait(PATIENCE)

    workers().each([body] * team * 3)
    assert most[0] == team


def test_what_runs_in_a_worker_may_share_its_work_out(team: int) -> None:
    """All workers are taken by those that want help."""

    def whole() -> int:
        return sum(workers().each([lambda: 1] * 4))

    assert workers().each([whole] * 2 * team) == [4] * 2 * team


@pytest.mark.parametrize("at", [0, 3])
def test_an_error_comes_when_all_have_ended(team: int, at: int) -> None:
    running, done = set[int](), set[int]()

    def body(i: int) -> None:
        running.add(i)
        time.sleep(0.02)
        done.add(i)
        if i == at:
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        workers().each([lambda i=i: body(i) for i in range(40)])  # type: ignore[misc]
    assert running == done and len(done) < 40


def test_an_interrupt_waits_for_the_body(team: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def interrupted(future: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers().run(lambda: (time.sleep(0.2), ended.append(1)))
    assert ended


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_go_with_the_work(team: int, mode: Any) -> None:
    def modes() -> tuple[bool, bool]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    with mode():
        here = modes()
        assert workers().each([modes] * 3) == [here] * 3
        assert workers().run(modes) == here


def test_context_variables_go_with_the_work(team: int) -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)
    token = variable.set(7)
    try:
        assert workers().each([variable.get] * 4) == [7] * 4
        assert workers().run(variable.get) == 7
    finally:
        variable.reset(token)
    assert workers().run(variable.get) == 0


def test_wide_work_has_the_team_and_other_work_has_not(team: int) -> None:
    both = workers().run(lambda: (torch.get_num_threads(), workers().run(torch.get_num_threads, wide=True)))
    assert both == (1, team)
    assert workers().run(threading.get_ident, wide=True) == threading.get_ident()


def test_in_turn_is_here(team: int) -> None:
    with in_turn():
        assert workers().each([threading.get_ident] * 3) == [threading.get_ident()] * 3
        assert workers().run(threading.get_ident) == threading.get_ident()
    assert workers().run(threading.get_ident) != threading.get_ident()


def test_a_team_of_one_needs_no_other_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert Workers().each([threading.get_ident] * 3) == [threading.get_ident()] * 3
    finally:
        torch.set_num_threads(before)


def test_a_thread_may_have_workers_of_its_own(team: int) -> None:
    """And those that help it work for it."""

    def inside() -> tuple[bool, bool, bool]:
        leave_team()
        with own_workers():
            own = workers()
            found = own is not registry.one(Workers), all(mine is own for mine in own.each([workers] * 4))
        return *found, workers() is registry.one(Workers)

    assert elsewhere(inside) == (True, True, True)
    assert workers() is registry.one(Workers)


def test_threads_end_with_their_workers(team: int) -> None:
    before, made = set(threading.enumerate()), Workers()
    assert made.run(threading.current_thread) not in before
    assert made.run(lambda: made.run(threading.current_thread, wide=True)) not in before
    made.close()
    assert set(threading.enumerate()) <= before


def test_large_is_what_a_team_is_quicker_at(turbo: Any) -> None:
    assert not is_large(turbo.pipe.transformer)
    with torch.device("meta"):
        assert is_large(torch.nn.Linear(10_000, 10_000))
