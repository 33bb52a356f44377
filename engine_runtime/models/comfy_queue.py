"""What ComfyUI's queue does now: its memory manager belongs to the job that runs. ComfyUI is imported only inside
functions.
"""

from __future__ import annotations

import time
from typing import Any

from ..errors import MemoryShortage

WAIT_SECONDS = 10.0  # for a job's end, where weights are wanted beside the queue


def job_runs() -> bool:
    queue = _queue()
    return queue is not None and bool(queue.currently_running)


def is_idle() -> bool:
    """Return whether nothing runs and nothing waits."""
    queue = _queue()
    return queue is None or not queue.get_tasks_remaining()


def wait_for_job() -> None:
    """Wait until no job runs. Raises `MemoryShortage` where it does not end."""
    end = time.monotonic() + WAIT_SECONDS
    while job_runs():
        if time.monotonic() > end:
            raise MemoryShortage("ComfyUI's job has the memory", "the music needs some of it", "wait for its end")
        time.sleep(0.05)


def _queue() -> Any:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)  # there is none where the nodes run in a script
    return None if server is None else server.prompt_queue
