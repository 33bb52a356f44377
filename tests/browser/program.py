"""A server of ours in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

START_SECONDS = 180


class Program:
    """A program that writes `Playing at ADDRESS` once it serves, and ends when its standard input does: with this
    process, however that ends. It can be started again.

    Args:
        arguments: of Python.
        folder: in which it runs.

    Attributes:
        address: of its page, with a slash at the end.
        lines: what it wrote, errors too.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.address, self.lines = "", list[str]()

    def start(self) -> None:
        self.address = ""
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *self.arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        serves = threading.Event()
        threading.Thread(target=self._read, args=(serves,), daemon=True).start()
        assert serves.wait(START_SECONDS) and self.address, "\n".join(self.lines)

    def _read(self, serves: threading.Event) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip())
            if "Playing at" in line:
                self.address = line.split("Playing at ")[1].split()[0]
                serves.set()
        serves.set()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)
