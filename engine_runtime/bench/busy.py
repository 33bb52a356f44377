"""Other work on the processor: processes that compute without a pause."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import check_whole

# It ends with the one that started it, however that ends.
SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    pass
"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes busy for the length of a block."""
    check_whole("the busy processes", count, 0, 1024, "as many as processors are a fully loaded machine")
    started = [subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
