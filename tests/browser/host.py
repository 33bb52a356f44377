"""A small host of ComfyUI's own editor: the real frontend package, the pack's schemas, and a queue that runs them.

It stands in for ComfyUI where that is not installed. Run it as a program; `--frontend` is the `static` folder of a
`comfyui-frontend-package`. What the editor asks beyond the routes below is answered with an empty list or object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from ostinato.cli.core_nodes import CORE_NODES, Folders, next_file, use_folders
from ostinato.cli.graph import Catalogue, Graph, Link, Node, WorkflowError, catalogue
from ostinato.cli.validate import running_order, validate
from ostinato.cli.workflow import parse_api
from ostinato.engine_runtime.errors import OstinatoError
from ostinato.engine_runtime.serve.routes import Routes
from ostinato.nodes import NODES
from ostinato.nodes.shared import host as pack_host
from ostinato.nodes.shared import live_queue
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.live_score import LIVE
from ostinato.nodes.shared.run import run_node

sys.path.insert(0, str(Path(__file__).resolve().parent))
from object_info import object_info

PACK = Path(__file__).resolve().parents[2]
NAME = "ostinato"  # of the pack's folder, as in /extensions
EMPTY_LISTS = ("/embeddings", "/models", "/experiment/models", "/v2/userdata", "/userdata")
EMPTY_OBJECTS = ("/node_replacements", "/history", "/global_subgraphs", "/features")


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
    """Runs prompts one after the other, in a thread, with the events that ComfyUI sends.

    What a node made is kept for the next prompt that has the same node with the same inputs, as ComfyUI does.
    """

    def __init__(self, types: Catalogue, events: Events, folder: Path) -> None:
        self.types, self.events, self.folder = types, events, folder
        self.thread = ThreadPoolExecutor(1)
        self.prompts = 0
        self.kept: dict[str, io.NodeOutput] = {}  # by what the node is and takes

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take in a prompt, or say what is wrong with it, as ComfyUI words it."""
        prompt, name = body["prompt"], body.get("prompt_id") or str(uuid.uuid4())
        try:
            graph = parse_api(prompt, self.types)
            order = running_order(graph, self.types)
            validate(graph, self.types, order)
        except WorkflowError as error:
            wrong = {"type": "prompt", "message": str(error), "details": "", "extra_info": {}}
            return {"error": wrong, "node_errors": {}}
        if targets := body.get("partial_execution_targets"):
            order = _needed(graph, order, targets)
        for node in prompt.values():  # as ComfyUI does where it checks them
            node["inputs"] = {k: v["__value__"] if _wrapped(v) else v for k, v in node["inputs"].items()}
        live_queue.with_links({"prompt": prompt})
        hidden = {io.Hidden.prompt: prompt, io.Hidden.extra_pnginfo: body.get("extra_data", {}).get("extra_pnginfo")}
        self.thread.submit(self._run, graph, order, hidden, name, body.get("client_id"))
        self.prompts += 1
        return {"prompt_id": name, "number": self.prompts, "node_errors": {}}

    def _run(
        self, graph: Graph, order: list[Node], hidden: dict[io.Hidden, Any], name: str, client: str | None
    ) -> None:
        def tell(kind: str, **data: Any) -> None:
            self.events.send(kind, {"prompt_id": name, **data}, client)

        tell("execution_start")
        values: dict[str, tuple[Any, ...]] = {}
        made: dict[str, str] = {}  # what each node is and takes
        kept: dict[str, io.NodeOutput] = {}
        node = order[0]
        try:
            with torch.inference_mode(), use_folders(Folders(self.folder)):
                for node in order:
                    tell("executing", node=node.id, display_node=node.id)
                    inputs = {k: [made[v.node], v.slot] if isinstance(v, Link) else v for k, v in node.inputs.items()}
                    key = made[node.id] = json.dumps([node.class_type, inputs], sort_keys=True)
                    output = self.kept.get(key) or self._node(node, values, hidden | {io.Hidden.unique_id: node.id})
                    values[node.id] = output.args
                    if node.class_type != LIVE:
                        kept[key] = output
                    if ui := self._shown(node, output):
                        tell("executed", node=node.id, display_node=node.id, output=ui)
            tell("execution_success")
        except Exception as error:
            fault = {"exception_type": type(error).__name__, "exception_message": str(error), "traceback": []}
            tell("execution_error", node_id=node.id, node_type=node.class_type, executed=[], **fault)
            if not isinstance(error, OstinatoError):
                traceback.print_exc()
        finally:
            self.kept = kept
            tell("executing", node=None)
            self.events.send("status", {"status": {"exec_info": {"queue_remaining": 0}}})

    def _node(self, node: Node, values: dict[str, tuple[Any, ...]], hidden: dict[io.Hidden, Any]) -> io.NodeOutput:
        if node.class_type != LIVE:
            given = {k: values[v.node][v.slot] if isinstance(v, Link) else v for k, v in node.inputs.items()}
            return run_node(self.types[node.class_type].cls, given, hidden)
        inputs = hidden[io.Hidden.prompt][node.id]["inputs"]
        given = {k: values[v[0]][v[1]] if isinstance(v, list) else v for k, v in inputs.items()}
        holder = io.HiddenHolder(**{name.name: value for name, value in hidden.items()})
        return io.NodeOutput(ui={"ostinato_live": [{"session": live_queue.play(holder, given)}]})

    def _shown(self, node: Node, output: io.NodeOutput) -> dict[str, Any]:
        """Return what a node shows, as ComfyUI words it; its files lie in the output folder."""
        ui = output.ui if isinstance(output.ui, dict) else output.ui.as_dict() if output.ui is not None else {}
        ui = {name: list(value) for name, value in ui.items() if name != "pixels"}
        if node.class_type in ("SaveAudio", "PreviewAudio") and "files" in ui:
            files = [Path(path).relative_to(self.folder) for path in ui.pop("files")]
            ui["audio"] = [{"filename": f.name, "subfolder": str(f.parent), "type": "output"} for f in files]
        return ui


def _wrapped(value: Any) -> bool:
    return isinstance(value, dict) and "__value__" in value


def _needed(graph: Graph, order: list[Node], targets: list[str]) -> list[Node]:
    """Return the nodes that the targets need, in their order."""
    wanted, waiting = set(targets), list(targets)
    while waiting:
        for _, link in graph.nodes[waiting.pop()].links():
            if link.node not in wanted:
                wanted.add(link.node)
                waiting.append(link.node)
    return [node for node in order if node.id in wanted]


def _under_api(routes: list[web.RouteDef]) -> list[web.RouteDef]:
    """Return routes as ComfyUI serves each of them too."""
    return [web.RouteDef(route.method, "/api" + route.path, route.handler, route.kwargs) for route in routes]


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
        asked = ("/object_info", "/users", "/settings", "/settings/{id}", "/extensions", "/queue", "/prompt", "/i18n")
        found += [
            web.get(path, answer)
            for path in (*asked, "/system_stats", "/workflow_templates", "/jobs", *EMPTY_LISTS, *EMPTY_OBJECTS)
        ]
        return [*found, *_under_api(found), web.get("/", self.page), web.static(f"/extensions/{NAME}", PACK / "web")]

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
            "/i18n": translations(),
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
        path = self.queue.folder / request.query.get("subfolder", "") / request.query["filename"]
        if not path.resolve().is_relative_to(self.queue.folder.resolve()):
            raise web.HTTPForbidden
        return web.FileResponse(path)

    async def template(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PACK / "example_workflows" / Path(request.match_info["file"]).name)

    async def page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(self.frontend / "index.html", headers={"Cache-Control": "no-store"})


def translations() -> dict[str, Any]:
    """Return the pack's texts by language, as ComfyUI serves them: those of `main` beside the other files."""
    found = {}
    for folder in (PACK / "locales").iterdir():
        texts = {file.stem: json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")}
        found[folder.name] = {**texts.pop("main"), **texts}
    return found


async def serve(frontend: Path, folder: Path, port: int, settings: dict[str, Any], told: Callable[[str], None]) -> None:
    """Serve until the process is ended."""
    events = Events()
    shown = pack_host.Host(
        text=lambda text, node: events.send(pack_host.TEXT_EVENT, {"node": node, "text": text}),
        next_file=lambda prefix, suffix: _next_file(folder, prefix, suffix),
    )
    editor = Editor(frontend, Queue(catalogue(NODES, CORE_NODES), events, folder), settings)
    app = web.Application(client_max_size=64 << 20)
    live = Routes(live_queue.sessions(), loopback=True, missing=live_queue.lacking).table()
    app.add_routes([*editor.routes(), *live, *_under_api(live), web.static("/", frontend)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    told(f"http://localhost:{runner.addresses[0][1]}/")
    with pack_host.use(shown):
        await asyncio.Event().wait()


def _next_file(folder: Path, prefix: str, suffix: str) -> Path:
    with use_folders(Folders(folder)):
        return next_file(prefix, suffix)


def main() -> None:
    """Read the arguments and serve; the program ends when its standard input does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frontend", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={})
    given = parser.parse_args()

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()

    def told(address: str) -> None:
        sys.stdout.write(f"Playing at {address}\n")
        sys.stdout.flush()

    asyncio.run(serve(given.frontend, given.out, given.port, given.settings, told))


if __name__ == "__main__":
    main()
