"""Debian's Chromium at the page of a real `ostinato live`, or at ComfyUI's editor.

Skipped where there is no Chromium, no Playwright or no frontend.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .editor import CANVASES, ComfyUI, Editor, Host, frontends, version
from .program import Program

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FRONTENDS = frontends() or [None]
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


class Server(Program):
    """`ostinato live` on a port, which stays the same where it is started again."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        (folder / "live.json").write_text(json.dumps(workflow()), encoding="utf-8")
        super().__init__([], folder)
        self.port = port

    def start(self) -> None:
        self.arguments = ["-c", PROGRAM, "live", "live.json", "--port", str(self.port), "--out", "out"]
        super().start()
        self.port = int(self.address.rstrip("/").rpartition(":")[2])


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


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Host | ComfyUI]]:
    """`hosts(frontend)`: a host of this frontend, started once."""
    kind = ComfyUI if os.environ.get("OSTINATO_BROWSER_COMFYUI") else Host
    made: dict[Path, Host | ComfyUI] = {}

    def get(frontend: Path) -> Host | ComfyUI:
        if frontend not in made:
            one = kind(frontend, tmp_path_factory.mktemp("host"))
            one.start()
            made[frontend] = one
        return made[frontend]

    yield get
    for one in made.values():
        one.stop()
    for one in made.values():
        assert not any("Traceback" in line for line in one.lines), "\n".join(one.lines)


@pytest.fixture(scope="module", params=FRONTENDS, ids=lambda path: version(path) if path else "none")
def host(request: pytest.FixtureRequest, hosts: Callable[[Path], Host | ComfyUI]) -> Host | ComfyUI:
    if request.param is None:
        pytest.skip(
            "no frontend: pip install comfyui-frontend-package, or set OSTINATO_FRONTENDS to its static folders"
        )
    if not Path(request.param, "index.html").is_file():
        pytest.fail(f"{request.param} is no frontend: OSTINATO_FRONTENDS names folders `static` of the package")
    return hosts(request.param)


@pytest.fixture(params=CANVASES, ids=str)
def editor(request: pytest.FixtureRequest, browser: Any, host: Host | ComfyUI) -> Iterator[Editor]:
    context = browser.new_context(viewport={"width": 1600, "height": 950})
    made = Editor(context.new_page(), host, CANVASES[request.param])
    yield made
    context.close()
