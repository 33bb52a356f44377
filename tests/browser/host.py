"""A small host of ComfyUI's own editor: the real frontend package, the pack's schemas, and a queue that runs them.

It stands in for ComfyUI where that is not installed. Run it as a program; `--frontend` is the `static` folder of a
`comfyui-frontend-package`. What the editor asks beyond the routes below is answered with an empty list or object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from ostinato.cli.core_nodes import CORE_NODES, Folders, use_folders
from ostinato.cli.graph import Catalogue, Graph, Link, Node, WorkflowError, catalogue
from ostinato.cli.validate import running_order, validate
from ostinato.cli.workflow import parse_api
from ostinato.engine_runtime.errors import OstinatoError
from ostinato.nodes import NODES
from ostinato.nodes.shared import host as pack_host
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.run import run_node

sys.path.insert(0, str(Path(__file__).resolve().parent))
from object_info import object_info

PACK = Path(__file__).resolve().parents[2]
NAME = "ostinato"  # of the pack's folder, as in /extensions
EMPTY_LISTS = ("/embeddings", "/models", "/experiment/models", "/v2/userdata", "/userdata")
EMPTY_OBJECTS = ("/i18n", "/node_replacements", "/history", "/global_subgraphs", "/features")


class Events:
    """The editors that are connected, by client id. `send` may be called from any thread."""

    def __init__(self) -> None:
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.loop = asyncio.get_running_loop()

    def send(self, kind: str, data: dict[str, Any], client: str | None = None) -> None:
        asyncio.run_coroutine_threadsafe(self._send({"type": kind, "data": data}, client), self.loop)

    async def _send(self, message: dict[str, Any], client: str | None) -> None:
        for name, socket in list(self.sockets.items()):
            if client in (None, name) and not socket.closed:
                await socket.send_json(message)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("clientId") or uuid.uuid4().hex
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[name] = socket
        status = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": name}
        await socket.send_json({"type": "status", "data": status})
        async for _ in socket:
            pass
        self.sockets.pop(name, None)
        return socket


class Queue:
    """Runs prompts one after the other, in a thread, with the events that ComfyUI sends."""

    def __init__(self, types: Catalogue, events: Events, folder: Path) -> None:
        self.types, self.events, self.folder = types, events, folder
        self.thread = ThreadPoolExecutor(1)
        self.ran: list[list[str]] = []  # the nodes of each prompt

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take in a prompt, or say what is wrong with it, as ComfyUI words it."""
        number, name = len(self.ran), body.get("prompt_id") or str(uuid.uuid4())
        try:
            graph = parse_api(body["prompt"], self.types)
            order = running_order(graph, self.types)
            validate(graph, self.types, order)
        except WorkflowError as error:
            return {
                "error": {"type": "prompt", "message": str(error), "details": "", "extra_info": {}},
                "node_errors": {},
            }
        targets = body.get("partial_execution_targets")
        if targets:
            order = _needed(graph, order, targets)
        self.ran.append([node.id for node in order])
        workflow = body.get("extra_data", {}).get("extra_pnginfo", {})
        self.thread.submit(self._run, graph, order, workflow, name, body.get("client_id"))
        return {"prompt_id": name, "number": number, "node_errors": {}}

    def _run(self, graph: Graph, order: list[Node], pnginfo: dict[str, Any], name: str, client: str | None) -> None:
        def tell(kind: str, **data: Any) -> None:
            self.events.send(kind, {"prompt_id": name, **data}, client)

        values: dict[str, tuple[Any, ...]] = {}
        hidden = {io.Hidden.prompt: graph.to_api(), io.Hidden.extra_pnginfo: pnginfo}
        shown = pack_host.Host(text=lambda text, node: self.events.send("ostinato.text", {"node": node, "text": text}))
        tell("execution_start")
        node = None
        try:
            with torch.inference_mode(), pack_host.use(shown), use_folders(Folders(self.folder)):
                for node in order:
                    tell("executing", node=node.id, display_node=node.id)
                    output = self._node(node, values, hidden | {io.Hidden.unique_id: node.id})
                    values[node.id] = output.args
                    if ui := self._shown(node, output):
                        tell("executed", node=node.id, display_node=node.id, output=ui)
            tell("execution_success")
        except Exception as error:
            fault = {"exception_type": type(error).__name__, "exception_message": str(error), "traceback": []}
            tell("execution_error", node_id=node.id, node_type=node.class_type, executed=[], **fault)
            if not isinstance(error, OstinatoError):
                raise
        finally:
            tell("executing", node=None)
            self.events.send("status", {"status": {"exec_info": {"queue_remaining": 0}}})

    def _node(self, node: Node, values: dict[str, tuple[Any, ...]], hidden: dict[io.Hidden, Any]) -> io.NodeOutput:
        given = {k: values[v.node][v.slot] if isinstance(v, Link) else v for k, v in node.inputs.items()}
        return run_node(self.types[node.class_type].cls, given, hidden)

    def _shown(self, node: Node, output: io.NodeOutput) -> dict[str, Any]:
        """Return what a node shows, as ComfyUI words it; its files lie in the output folder."""
        ui = output.ui if isinstance(output.ui, dict) else output.ui.as_dict() if output.ui is not None else {}
        ui = {name: list(value) for name, value in ui.items() if name != "pixels"}
        if node.class_type in ("SaveAudio", "PreviewAudio") and "files" in ui:
            ui["audio"] = [{"filename": Path(path).name, "subfolder": "", "type": "output"} for path in ui.pop("files")]
        return ui


def _needed(graph: Graph, order: list[Node], targets: list[str]) -> list[Node]:
    """Return the nodes that the targets need, in their order."""
    wanted, waiting = set(targets), list(targets)
    while waiting:
        for _, link in graph.nodes[waiting.pop()].links():
            if link.node not in wanted:
                wanted.add(link.node)
                waiting.append(link.node)
    return [node for node in order if node.id in wanted]


class Editor:
    """The routes that the frontend needs."""

    def __init__(self, frontend: Path, queue: Queue, settings: dict[str, Any]) -> None:
        self.frontend, self.queue, self.settings = frontend, queue, settings
        self.files: dict[str, bytes] = {}  # of the user, by path
        self.info = object_info([*NODES, *CORE_NODES], f"custom_nodes.{NAME}")

    def routes(self) -> list[web.RouteDef]:
        async def answer(request: web.Request) -> web.Response:
            return web.json_response(self.answer(request))

        found: list[web.RouteDef] = [
            web.get("/ws", self.queue.events.handle),
            web.post("/prompt", self.prompt),
            web.post("/settings", self.set_many),
            web.post("/settings/{id}", self.set_one),
            web.get("/userdata/{file}", self.read),
            web.post("/userdata/{file}", self.write),
            web.get("/view", self.view),
            *(web.post(path, answer) for path in ("/interrupt", "/free", "/queue", "/history", "/users")),
            web.get("/workflow_templates/" + NAME + "/{file}", self.template),
        ]
        asked = ("/object_info", "/users", "/settings", "/settings/{id}", "/extensions", "/queue", "/prompt")
        found += [
            web.get(path, answer)
            for path in (*asked, "/system_stats", "/workflow_templates", "/jobs", *EMPTY_LISTS, *EMPTY_OBJECTS)
        ]
        under_api = [web.RouteDef(r.method, "/api" + r.path, r.handler, r.kwargs) for r in found]
        return [*found, *under_api, web.get("/", self.page), web.static(f"/extensions/{NAME}", PACK / "web")]

    def answer(self, request: web.Request) -> Any:
        path = request.path.removeprefix("/api")
        if path.startswith("/settings/"):
            return self.settings.get(path.removeprefix("/settings/"))
        own = {
            "/object_info": self.info,
            "/users": {"storage": "server", "migrated": True},
            "/settings": self.settings,
            "/extensions": [f"/extensions/{NAME}/{file.name}" for file in sorted((PACK / "web").glob("**/*.js"))],
            "/queue": {"queue_running": [], "queue_pending": []},
            "/prompt": {"exec_info": {"queue_remaining": 0}},
            "/jobs": {"jobs": [], "pagination": {"offset": 0, "limit": 200, "total": 0, "has_more": False}},
            "/workflow_templates": {NAME: sorted(file.stem for file in (PACK / "example_workflows").glob("*.json"))},
            "/system_stats": {
                "system": {"os": "posix", "python_version": "3", "embedded_python": False, "comfyui_version": "0.20.1"}
                | {"pytorch_version": torch.__version__, "argv": [], "ram_total": 1 << 34, "ram_free": 1 << 33},
                "devices": [],
            },
        }
        return own.get(path, [] if path in EMPTY_LISTS else {})

    async def prompt(self, request: web.Request) -> web.Response:
        answer = self.queue.put(await request.json())
        return web.json_response(answer, status=400 if "error" in answer else 200)

    async def set_many(self, request: web.Request) -> web.Response:
        self.settings.update(await request.json())
        return web.Response()

    async def set_one(self, request: web.Request) -> web.Response:
        self.settings[request.match_info["id"]] = await request.json()
        return web.Response()

    async def read(self, request: web.Request) -> web.Response:
        data = self.files.get(request.match_info["file"])
        return web.Response(status=404) if data is None else web.Response(body=data)

    async def write(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        self.files[name] = await request.read()
        return web.json_response({"path": name, "size": len(self.files[name]), "modified": 0, "created": 0})

    async def view(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self.queue.folder / Path(request.query["filename"]).name)

    async def template(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PACK / "example_workflows" / Path(request.match_info["file"]).name)

    async def page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(self.frontend / "index.html", headers={"Cache-Control": "no-store"})


async def serve(frontend: Path, folder: Path, port: int, settings: dict[str, Any], told: Callable[[str], None]) -> None:
    """Serve until the process is ended."""
    events = Events()
    editor = Editor(frontend, Queue(catalogue(NODES, CORE_NODES), events, folder), settings)
    app = web.Application(client_max_size=64 << 20)
    app.add_routes([*editor.routes(), web.static("/", frontend)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    told(f"http://localhost:{runner.addresses[0][1]}/")
    await asyncio.Event().wait()


def main() -> None:
    """Read the arguments and serve; the program ends when its standard input does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frontend", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={})
    given = parser.parse_args()

    import os

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()

    def told(address: str) -> None:
        sys.stdout.write(f"Playing at {address}\n")
        sys.stdout.flush()

    asyncio.run(serve(given.frontend, given.out, given.port, given.settings, told))


if __name__ == "__main__":
    main()
