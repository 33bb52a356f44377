"""Tells whether ComfyUI's queue and its memory manager are at work: the manager belongs to the queue's thread and has
no locks. ComfyUI is imported only inside functions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from ..device.player import PLAYER
from ..errors import MemoryShortage
from ..registry import registry

# Until a job ends, where weights are wanted beside the queue; longer than the queue waits for a player that is to rest.
WAIT_SECONDS = 30.0


class _Now:
    """Holds a token for each model that the manager takes away now, and for each load beside the queue."""

    def __init__(self) -> None:
        self.leaving, self.loads = set[object](), set[object]()


@contextmanager
def _noted(tokens: set[object]) -> Iterator[None]:
    """Hold a token among these for the length of a block."""
    one = object()
    tokens.add(one)
    try:
        yield
    finally:
        tokens.discard(one)


def leaving() -> AbstractContextManager[None]:
    """Tell that the manager takes a model away, for the length of a block."""
    return _noted(registry.one(_Now).leaving)


def job_runs() -> bool:
    queue = _queue()
    return queue is not None and bool(queue.currently_running)


def is_idle() -> bool:
    """Return whether nothing runs and nothing waits."""
    queue = _queue()
    return queue is None or not queue.get_tasks_remaining()


def unloads() -> bool:
    """Return whether the manager is taking models away; those that are gone leave its list together, at the end."""
    import comfy.model_management

    loaded = list(comfy.model_management.current_loaded_models)
    return bool(registry.one(_Now).leaving) or any(getattr(one, "real_model", one) is None for one in loaded)


@contextmanager
def kept_waiting() -> Iterator[bool]:
    """Keep the queue's thread waiting for its next job, for the length of a block; inside a job, do nothing.

    Yields:
        whether it waits, or the block is the job's own; false where a job runs, the thread clears up after one,
        somebody uses the queue at the moment, or weights are loaded beside it.
    """
    queue = _queue()
    if queue is None or _in_a_job():
        yield True
    elif not queue.mutex.acquire(blocking=False):  # never waited for: the caller holds locks of ours
        yield False
    else:
        try:
            # of a private attribute, for nothing public tells whether a thread waits for a condition
            waits = not queue.currently_running and bool(queue.not_empty._waiters)
            yield waits and not registry.one(_Now).loads
        finally:
            queue.mutex.release()


def _in_a_job() -> bool:
    from comfy_execution.utils import get_executing_context

    return get_executing_context() is not None


@contextmanager
def loading() -> Iterator[None]:
    """Load through the manager, in a thread beside the queue: once no job runs, the manager takes nothing away and no
    capture goes on. None begins inside the block, for the manager may wait for the whole device.

    Raises:
        MemoryShortage: where the job does not end, or waits for this thread itself.
    """
    end, player = time.monotonic() + WAIT_SECONDS, PLAYER.get()
    while job_runs() or unloads():
        if time.monotonic() > end or (player is not None and player.awaited):
            raise MemoryShortage("ComfyUI's job has the memory", "the music needs some of it", "wait for its end")
        time.sleep(0.05)
    with _noted(registry.one(_Now).loads):
        if (queue := _queue()) is not None:
            with queue.mutex:  # held by a capture until it ends
                pass
        yield


def bring(patcher: Any, **how: Any) -> None:
    """Load a model through ComfyUI's manager, which frees memory and marks it as used last. Beside the queue nothing is
    asked of the manager where the weights are there, with these patches.

    Args:
        patcher: ComfyUI's `ModelPatcher`.
        how: as `load_models_gpu` takes it.

    Raises:
        MemoryShortage: beside the queue, where a job does not end.
    """
    import comfy.model_management

    beside = not _in_a_job()
    merged = patcher.model.current_weight_patches_uuid  # of any clone: they share the model
    if beside and patcher.loaded_size() >= patcher.model_size() and merged in (None, patcher.patches_uuid):
        return
    with loading() if beside else nullcontext():
        comfy.model_management.load_models_gpu([patcher], **how)


def _queue() -> Any:
    server = getattr(sys.modules.get("server"), "PromptServer", None)  # there is none where the nodes run in a script
    return getattr(getattr(server, "instance", None), "prompt_queue", None)
