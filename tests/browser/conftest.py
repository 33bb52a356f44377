"""Debian's Chromium at the page of a real `ostinato live`, or at ComfyUI's editor.

Skipped where there is no Chromium, no Playwright or no frontend.
"""

from __future__ import annotations

import itertools
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
FAILED = pytest.StashKey[bool]()


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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("live"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
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
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path | None], Host | ComfyUI]]:
    """`hosts(frontend)`: a host of this frontend, started once."""
    kind = ComfyUI if os.environ.get("OSTINATO_BROWSER_COMFYUI") else Host
    made: dict[Path, Host | ComfyUI] = {}

    def get(frontend: Path | None) -> Host | ComfyUI:
        if frontend is None:
            pytest.skip(
                "no frontend: pip install comfyui-frontend-package, or set OSTINATO_FRONTENDS to its static folders"
            )
        if not (frontend / "index.html").is_file():
            pytest.fail(f"{frontend} is no frontend: OSTINATO_FRONTENDS names folders `static` of the package")
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests their frontends and canvases, in an order that opens each once.

    All that the extension asks of the editor is in `frontend/src/comfy.ts`. Tests that go through what differs there,
    the editor's own widgets, menus and graphs, are marked `every_editor`. What lies behind is one code for all: those
    tests see the first frontend with one canvas and the last with the other.
    """
    if "opened" in metafunc.fixturenames:
        pairs = list(itertools.product(FRONTENDS, CANVASES))
        if len(FRONTENDS) > 1 and not metafunc.definition.get_closest_marker("every_editor"):
            pairs = [pairs[0], pairs[-1]]
        ids = [f"{_name(frontend)}-{canvas}" for frontend, canvas in pairs]
        metafunc.parametrize("opened", pairs, indirect=True, scope="session", ids=ids)
    elif "host" in metafunc.fixturenames:
        metafunc.parametrize("host", FRONTENDS, indirect=True, scope="session", ids=_name)


def _name(frontend: Path | None) -> str:
    return version(frontend) if frontend else "none"


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest, hosts: Callable[[Path | None], Host | ComfyUI]) -> Host | ComfyUI:
    return hosts(request.param)


@pytest.fixture(scope="session")
def opened(
    request: pytest.FixtureRequest, hosts: Callable[[Path | None], Host | ComfyUI], browser: Any
) -> Iterator[Editor]:
    """An editor whose page tests share: loading the frontend takes four seconds of a core, a workflow half of one."""
    frontend, canvas = request.param
    made = Editor(browser, hosts(frontend), CANVASES[canvas])
    yield made
    made.close()


@pytest.fixture
def editor(request: pytest.FixtureRequest, opened: Editor) -> Iterator[Editor]:
    opened.begin()
    yield opened
    opened.end(failed=request.node.stash.get(FAILED, False))


@pytest.fixture
def own_editor(browser: Any, opened: Editor) -> Iterator[Editor]:
    """An editor whose page no other test sees: for what must be there before the page, or would stay on it."""
    made = Editor(browser, opened.host, opened.nodes2)
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report
