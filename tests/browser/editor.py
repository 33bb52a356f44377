"""ComfyUI's editor in a browser: opened with a workflow, its nodes found and turned as a user would."""

from __future__ import annotations

import importlib.util
import json
import os
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from ..examples import example
from .program import Program

HERE = Path(__file__).resolve().parent
CANVASES = {"classic": False, "nodes2": True}
PATIENCE = 60_000  # milliseconds; the cores are shared
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.43.18", "Comfy.Minimap.Visible": False}
# What the editors themselves write to the console, here as in ComfyUI.
THEIRS = (
    *("status of 404", "ERR_NAME_NOT_RESOLVED", "ERR_INTERNET_DISCONNECTED", "MaskEditor", "legacy queue/history menu"),
    *("Layout normalization", "graph accessed before initialization", "input.link is deprecated"),
    *("Connecting to 'https://", "Fetch API cannot load https://"),
    *("WebGL", "GPU stall", "GroupMarkerNotSet"),
)


def frontends() -> list[Path]:
    """List the frontends to test: the folders of OSTINATO_FRONTENDS, else that of the installed package."""
    if given := os.environ.get("OSTINATO_FRONTENDS"):
        return [Path(folder) for folder in given.split(os.pathsep)]
    spec = importlib.util.find_spec("comfyui_frontend_package")
    return [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "static"]


def version(frontend: Path) -> str:
    """Return a frontend's version, or the name of its folder."""
    found = sorted(frontend.parent.parent.glob("comfyui_frontend_package-*.dist-info"))
    return found[-1].name.split("-")[1].removesuffix(".dist") if found else frontend.name


class Host(Program):
    """`host.py`, which stands in for ComfyUI."""

    def __init__(self, frontend: Path, folder: Path) -> None:
        arguments = ["--frontend", str(frontend), "--out", str(folder), "--settings", json.dumps(SETTINGS)]
        super().__init__([str(HERE / "host.py"), *arguments], folder)
        self.version = version(frontend)


class ComfyUI:
    """A real ComfyUI with this frontend, in place of `Host`."""

    def __init__(self, frontend: Path, folder: Path) -> None:
        from ..comfyui.server import Server, find_install

        self.server = Server(find_install(), HERE.parents[1], folder, arguments=("--front-end-root", str(frontend)))
        self.folder, self.address, self.version = folder / "output", "", version(frontend)

    def start(self) -> None:
        self.server.__enter__()
        self.address = f"http://localhost:{self.server.port}/"
        for name, value in SETTINGS.items():
            url, body = f"{self.address}settings/{name}", json.dumps(value).encode()
            urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})).close()

    @property
    def lines(self) -> list[str]:
        return self.server.log().splitlines()

    def stop(self) -> None:
        self.server.stop()


def sessions(host: Host | ComfyUI) -> dict[str, str]:
    """Return the states of the live sessions, by name."""
    with urllib.request.urlopen(f"{host.address}ostinato/live", timeout=30) as reply:
        return json.loads(reply.read())


def template(name: str, **widgets: dict[str, Any]) -> dict[str, Any]:
    """Read a template under an id of its own; `widgets` are values by node type and place among the stored ones."""
    workflow = json.loads(example(name).read_text("utf-8")) | {"id": str(uuid.uuid4())}
    for node in workflow["nodes"]:
        for place, value in widgets.get(node["type"], {}).items():
            node["widgets_values"][place] = value
    return workflow


def live(seconds: float = 4.0) -> dict[str, Any]:
    """The live template with a short loop and a ring of one."""
    return template("live", OstinatoEncodePrompt={2: seconds}, OstinatoLiveSession={1: 1})


class Editor:
    """A page with the editor.

    Attributes:
        prompts: prompts that were queued.
        problems: what the console said and is none of `THEIRS`, and errors that nothing caught.
    """

    def __init__(self, browser: Any, host: Host | ComfyUI, nodes2: bool) -> None:
        self.browser, self.host, self.nodes2 = browser, host, nodes2
        self.problems, self.prompts = list[str](), 0
        self._new_page()

    def _new_page(self) -> None:
        self.page = self.browser.new_context(viewport={"width": 1600, "height": 950}).new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._request)

    def begin(self) -> None:
        """Forget what the tests before did."""
        self.problems.clear()
        self.prompts = 0

    def end(self, failed: bool) -> None:
        """Make the page silent; after a failure, leave it and what the editor kept: the next test has a new one."""
        if failed:
            self.close()
            self._new_page()
        else:
            self.page.evaluate("() => window.ostinato?.panic()")

    def close(self) -> None:
        self.page.context.close()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in THEIRS):
            self.problems.append(message.text)

    def _request(self, request: Any) -> None:
        self.prompts += request.method == "POST" and request.url.endswith("/prompt")

    def open(self, workflow: dict[str, Any] | None = None) -> None:
        """Load the page where it is not there yet, and a workflow where one is given."""
        if not self.page.url.startswith(self.host.address):
            self.page.goto(self.host.address)
            self.ready()
            setting = "(on) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
            self.page.evaluate(setting, self.nodes2)
        if workflow is not None:
            self.load(workflow)
            self.page.wait_for_function("() => window.ostinato.open.size === 0", timeout=PATIENCE)

    def kept(self, text: str) -> None:
        """Wait until what the editor keeps of its workflows, for a reload, has this text."""
        found = "(text) => [localStorage, sessionStorage].some((s) => Object.values(s).some((v) => v.includes(text)))"
        self.page.wait_for_function(found, arg=text, timeout=PATIENCE)

    def ready(self) -> None:
        """Wait until the editor is there and has opened the workflow it begins with, or kept for a reload."""
        self.page.wait_for_function(BEGUN, timeout=PATIENCE)

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate("(workflow) => window.app.loadGraphData(workflow, true, true)", workflow)
        self.page.wait_for_selector(".ostinato-panel", timeout=PATIENCE)

    def node(self, kind: str) -> int:
        """Return the id of the first node of a type."""
        return self.page.evaluate("(kind) => window.app.graph.nodes.find((n) => n.type === kind).id", kind)

    def value(self, kind: str, name: str) -> Any:
        """Return a widget's value."""
        find = "([kind, name]) => window.app.graph.nodes.find((n) => n.type === kind).widgets"
        return self.page.evaluate(f"{find}.find((w) => w.name === name).value", [kind, name])

    def step_up(self, kind: str, name: str) -> None:
        """Click the arrow of a number that is one step more."""
        if self.nodes2:
            row = self.page.locator(f'[data-node-id="{self.node(kind)}"] [node-type]').filter(has_text=name)
            row.get_by_label("Increment").or_(row.get_by_test_id("increment")).first.click(force=True)
            return
        x, y = self.page.evaluate(
            """([kind, name]) => {
              const node = window.app.graph.nodes.find((n) => n.type === kind);
              const widget = node.widgets.find((w) => w.name === name);
              const { left, top } = window.app.canvas.canvas.getBoundingClientRect();
              const at = [node.pos[0] + node.size[0] - 24, node.pos[1] + widget.y + 10];
              const [x, y] = window.app.canvas.ds.convertOffsetToCanvas(at);
              return [left + x, top + y];
            }""",
            [kind, name],
        )
        self.page.mouse.click(x, y)

    def menu(self, kind: str, entry: str, inner: str) -> None:
        """Right-click a node and choose an entry of an entry of its menu."""
        if self.nodes2:
            self.page.locator(f'[data-node-id="{self.node(kind)}"]').get_by_test_id("node-title").click(button="right")
        else:
            x, y = self.page.evaluate(
                """(kind) => {
                  const { canvas, graph } = window.app;
                  const node = graph.nodes.find((n) => n.type === kind);
                  const { left, top } = canvas.canvas.getBoundingClientRect();
                  const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] - 12]);
                  return [left + x, top + y];
                }""",
                kind,
            )
            self.page.mouse.click(x, y, button="right")
        outer, chosen = (self.page.get_by_text(text, exact=True) for text in (entry, inner))
        outer.hover()  # some menus open here, and would close again by a click
        try:
            chosen.wait_for(timeout=2000)
        except Exception:  # Playwright's TimeoutError, which is imported only where Playwright is there
            outer.click()
        chosen.click()

    def wait(self, condition: str) -> None:
        """Wait until an expression of the page's first live link is true."""
        self.page.wait_for_function(f"() => {{ {LINK}; return link && ({condition}) }}", timeout=PATIENCE)

    def link(self, expression: str) -> Any:
        """Evaluate an expression of the page's first live link."""
        return self.page.evaluate(f"() => {{ {LINK}; return {expression} }}")

    def play(self) -> None:
        """Press Play, and wait until it sounds."""
        self.button("Play").click()
        self.wait("link.state === 'playing' && link.player.gain")
        self.sounds()

    def button(self, name: str) -> Any:
        return self.page.locator(".ostinato-panel").get_by_role("button", name=name)

    def sounds(self) -> None:
        """Wait for sound at the speaker from now on."""
        self.page.evaluate(LISTEN)
        self.page.wait_for_function("() => window.peak() > 0.02", timeout=PATIENCE)

    def turned(self, act: Any) -> float:
        """Do something and wait until its change is heard; milliseconds to the ear, as the page measured them."""
        count = f"() => {{ {LINK}; return Object.values(link.latencies.times).flat() }}"
        before = len(self.page.evaluate(count))
        act()
        self.page.wait_for_function(f"(before) => ({count})().length > before", arg=before, timeout=PATIENCE)
        return self.page.evaluate(count)[-1]


BEGUN = "() => window.ostinato && window.app?.extensionManager.workflow.activeWorkflow"
LINK = "const link = [...window.ostinato.open.values()][0]?.link"
LISTEN = """() => {
  const { player } = [...window.ostinato.open.values()][0].link;
  const analyser = player.context.createAnalyser();
  player.gain.connect(analyser);
  const data = new Float32Array(analyser.fftSize);
  window.peak = () => { analyser.getFloatTimeDomainData(data); return Math.max(...data.map(Math.abs)); };
}"""
