"""Plays a workflow live: its session, and a server on this machine with a page of the graph's knobs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import soundfile
import torch
from aiohttp import web

from ..engine_runtime.audio.live_vae import LiveVae
from ..engine_runtime.errors import InputError
from ..engine_runtime.files import write_whole
from ..engine_runtime.live.level import SAMPLE_RATE
from ..engine_runtime.live.session import Capture, LiveSession
from ..engine_runtime.serve.control import Control
from ..engine_runtime.serve.routes import Live, Routes
from ..nodes.shared.comfy import io
from ..nodes.shared.live_graph import Cell, From, LiveGraph
from .core_nodes import Folders, next_file, use_folders
from .graph import Catalogue, Graph, Link, Node, WorkflowError
from .settings import find_node
from .validate import running_order, validate

TARGET, MODEL_TYPE = "OstinatoStreamDenoise", "OSTINATO_MODEL"
NAME = "live"  # of the one session
WEB = Path(__file__).resolve().parent.parent / "web"
FILES = {"": "live.html", "ostinato.js": "ostinato.js", "live.css": "live.css"}
# the worklet and the worker are scripts from blobs
POLICY = "default-src 'none'; script-src 'self' blob:; style-src 'self'; connect-src 'self'; img-src data:"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def live_graph(
    graph: Graph, types: Catalogue, node: str | None, mode: str, started: Callable[[str], None]
) -> LiveGraph:
    """Check a workflow and run what the node that plays needs.

    Args:
        node: an id, title or type; the first Stream Denoise without it.

    Raises:
        WorkflowError: where the workflow cannot be run as it is, or has no node that plays.
    """
    order = running_order(graph, types)
    validate(graph, types, order)
    target = _target(graph, order, node)
    wanted, waiting = {target.id}, [target]
    while waiting:
        for _, link in waiting.pop().links():
            if link.node not in wanted:
                wanted.add(link.node)
                waiting.append(graph.nodes[link.node])
    hidden: dict[io.Hidden, Any] = {io.Hidden.prompt: graph.to_api()}
    cells = [_cell(one, types, hidden) for one in order if one.id in wanted]
    return LiveGraph(cells, target.id, Sounds(graph, types, [cell.id for cell in cells]), mode, started)


class Sounds:
    """The decoder of the sound: that of the first model that the graph loads, made once."""

    def __init__(self, graph: Graph, types: Catalogue, nodes: list[str]) -> None:
        outputs = [(n, i, o) for n in nodes for i, o in enumerate(types[graph.nodes[n].class_type].schema.outputs)]
        self._place = next(((n, i) for n, i, output in outputs if output.get_io_type() == MODEL_TYPE), None)
        self._made: tuple[Any, LiveVae] | None = None

    def __call__(self, cells: Mapping[str, Cell]) -> LiveVae:
        if self._place is None:
            raise WorkflowError(
                "the workflow loads no model whose VAE could play", "one is needed", "add Load Model, and play on it"
            )
        node, slot = self._place
        model = cells[node].values[slot]
        if self._made is None or self._made[0] is not model:
            model.ready()
            self._made = model, LiveVae(model.pipe.vae)
        return self._made[1]


def play(graph: LiveGraph, out: Path, port: int, announce: Callable[[str], None]) -> None:
    """Serve a session until the process is interrupted.

    Args:
        out: where captures are written.
        port: on the loopback address; 0 takes a free one.
        announce: given the page's address once it is served.

    Raises:
        InputError: for a port that is taken.
    """
    if graph.score.engine.device.type == "cpu":
        torch.set_num_threads(1)  # ring and sound have a thread each, and two that share cores wait for each other
    session = LiveSession(NAME, graph.score)
    control = Control(session, graph)
    try:
        asyncio.run(_serve({NAME: Live(session, control, lambda capture: write_capture(capture, out))}, port, announce))
    finally:
        control.close()
        session.close()


def write_capture(capture: Capture, out: Path) -> list[str]:
    """Write a capture's sound as FLAC, and its take; returns their names."""
    with use_folders(Folders(out)):
        path, made = next_file("live", ".flac"), BytesIO()
    soundfile.write(made, capture.audio.T, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    write_whole(path, made.getvalue())
    take = path.with_suffix(".safetensors")
    capture.take.save(take)
    return [path.name, take.name]


def _cell(node: Node, types: Catalogue, hidden: dict[io.Hidden, Any]) -> Cell:
    inputs = {
        name: From(value.node, value.slot) if isinstance(value, Link) else value for name, value in node.inputs.items()
    }
    return Cell(node.id, node.title, types[node.class_type].cls, inputs, hidden=hidden)


def _target(graph: Graph, order: list[Node], name: str | None) -> Node:
    if name is not None:
        found = find_node(graph, name)
        if found in order and found.class_type == TARGET:
            return found
        raise WorkflowError(f"{found.name} is no node that plays", f"allowed is a {TARGET}", "choose another --node")
    playing = [node for node in order if node.class_type == TARGET]
    if not playing:
        raise WorkflowError("the workflow has nothing that plays", f"allowed is one with a {TARGET}", "add one")
    return playing[0]


def application(offered: Mapping[str, Live]) -> web.Application:
    """Make the server's application: the page, and the routes of the session."""

    async def page(request: web.Request) -> web.StreamResponse:
        routes.check(request)
        return web.FileResponse(WEB / FILES[request.path.lstrip("/")], headers=HEADERS)

    routes = Routes(offered, loopback=True)
    app = web.Application(client_max_size=1 << 16)
    app.add_routes([*routes.table(), *(web.get(f"/{name}", page) for name in FILES)])
    return app


async def _serve(offered: Mapping[str, Live], port: int, announce: Callable[[str], None]) -> None:
    runner = web.AppRunner(application(offered), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        try:
            await site.start()
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror})", "allowed is a free one", "choose another --port"
            ) from None
        announce(f"http://localhost:{runner.addresses[0][1]}/")
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl+C is an exception
                asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()
    finally:
        await runner.cleanup()
