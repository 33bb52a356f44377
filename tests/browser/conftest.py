"""A real `ostinato live` in a process of its own, and Debian's Chromium at its page.

Skipped where there is no Chromium or no Playwright.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
START_SECONDS = 120
# Chromium plays into nothing; a page may sound without a click, as it may where a user has clicked before.
ARGUMENTS = ["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]


def workflow(seconds: float = 5.0, depth: int = 1) -> dict[str, Any]:
    """A prompt, hot knobs and a ring of the built-in model, in the API form."""

    def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    tags = "funk, drums, bass, electric piano"
    prompt = {"tags": tags, "lyrics": "[instrumental]", "seconds": seconds, "bpm": 96, "key": "", "time_signature": "4"}
    task = {"language": "en", "task": "text2music", "repaint_start": 0.0, "repaint_end": 0.0}
    knobs = {"velocity_scale": 1.0, "ode_noise": 0.0, "sde": 1.0, "target_strength": 0.0}
    walk = {"steps": 8, "shift": 3.0, "denoise": 1.0, "seed": 7, "seed_step": 0, "solver": "ode"}
    links = {"engine": ["2", 0], "condition": ["3", 0], "knobs": ["4", 0]}
    return {
        "1": node("OstinatoLoadModel", model="tiny", precision="auto", device="cpu", download=False),
        "2": node("OstinatoEngine", model=["1", 0], kind="eager", max_rows=16),
        "3": node("OstinatoEncodePrompt", model=["1", 0], **prompt, **task),
        "4": node("OstinatoKnobs", **knobs),
        "5": node("OstinatoStreamDenoise", **links, count=1, depth=depth, **walk),
        "6": node("OstinatoStreamDecode", model=["1", 0], latents=["5", 0], window=0.0),
        "7": node("SaveAudio", audio=["6", 0], filename_prefix="live"),
    }


# The command, in a process that ends with the one that started it, however that ends.
PROGRAM = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from ostinato.cli.main import main
main()
"""


class Server:
    """`ostinato live` on a port; can be killed and started again on the same one."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder, self.port, self.lines = folder, port, list[str]()
        self.address = ""
        (folder / "live.json").write_text(json.dumps(workflow()), encoding="utf-8")

    def start(self) -> None:
        command = [sys.executable, "-c", PROGRAM, "live", "live.json"]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--out", "out"],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        playing = threading.Event()
        threading.Thread(target=self._read, args=(playing,), daemon=True).start()
        assert playing.wait(START_SECONDS), "\n".join(self.lines)
        assert self.address, "\n".join(self.lines)
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def _read(self, playing: threading.Event) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip())
            if "Playing at" in line:
                self.address = line.split("Playing at ")[1].split()[0]
                playing.set()
        playing.set()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("live"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    if not CHROMIUM:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    context = browser.new_context()
    made = context.new_page()
    made.problems = []
    made.on("console", lambda message: message.type in ("error", "warning") and made.problems.append(message.text))
    made.on("pageerror", lambda error: made.problems.append(str(error)))
    made.goto(server.address)
    yield made
    context.close()
