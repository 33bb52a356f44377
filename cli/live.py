"""Plays a workflow live: its session, and a server on this machine with a page of the graph's knobs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from ..engine_runtime.constants import LIVE_MODES
from ..engine_runtime.errors import InputError
from ..engine_runtime.live.session import LiveSession
from ..engine_runtime.serve.control import Control
from ..engine_runtime.serve.routes import Routes
from ..engine_runtime.serve.sessions import Live
from ..engine_runtime.serve.share import Share
from ..nodes.shared.comfy import io
from ..nodes.shared.live_files import keep_of
from ..nodes.shared.live_graph import Cell, From, LiveGraph
from ..nodes.shared.live_score import LIVE
from ..nodes.shared.missing import Named, missing
from .core_nodes import check_input
from .graph import Catalogue, Graph, Link, Node, WorkflowError
from .settings import find_node
from .share import read_settings, write_workflow
from .validate import running_order, validate

TARGETS = (LIVE, "OstinatoStreamDenoise")  # the nodes that play, those first that are taken first
MODEL_TYPE = "OSTINATO_MODEL"
NAME = "live"  # of the one session
WEB = Path(__file__).resolve().parent.parent / "web"
FILES = {"": "live.html", "ostinato.js": "ostinato.js", "live.css": "live.css"}
# the worklet and the worker are scripts from blobs
POLICY = "default-src 'none'; script-src 'self' blob:; style-src 'self'; connect-src 'self'; img-src data:"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def live_graph(
    graph: Graph, types: Catalogue, node: str | None, mode: str | None, started: Callable[[str], None]
) -> LiveGraph:
    """Check a workflow and run what the node that plays needs.

    Args:
        node: an id, title or type; without it the first Live Session, else the first Stream Denoise.
        mode: in place of the Live Session's own; loop without either.

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
    if target.class_type == LIVE and mode is not None:
        target.inputs["mode"] = mode
    cells = [_cell(one, types, hidden) for one in order if one.id in wanted]
    if target.class_type == LIVE:
        return LiveGraph(cells, target.id, started=started)
    model = _model_of(graph, types, [cell.id for cell in cells])
    return LiveGraph(cells, target.id, model, mode or LIVE_MODES[0], started)


def _model_of(graph: Graph, types: Catalogue, nodes: list[str]) -> Callable[[Mapping[str, Cell]], Any]:
    """Return a function that picks the first model that the graph loads, of the values of its cells."""
    outputs = [(n, i, o) for n in nodes for i, o in enumerate(types[graph.nodes[n].class_type].schema.outputs)]
    place = next(((n, i) for n, i, output in outputs if output.get_io_type() == MODEL_TYPE), None)
    if place is None:
        raise WorkflowError(
            "the workflow loads no model whose VAE could play", "one is needed", "add Load Model, and play on it"
        )
    return lambda cells: cells[place[0]].values[place[1]]


def share_of(data: dict[str, Any], graph: Graph, types: Catalogue) -> Share:
    """Return the set of a workflow: its settings, what is missing here, and how it is written again."""
    nodes = [(node.id, node.title, node.class_type, node.inputs) for node in graph.nodes.values()]
    lacking = [asdict(one) for one in missing(nodes, {"LoadAudio": Named("audio", "audio file", check_input)})]
    return Share(read_settings(data), lacking, lambda widgets, settings: write_workflow(data, types, widgets, settings))


def play(graph: LiveGraph, share: Share, port: int, announce: Callable[[str], None]) -> None:
    """Serve a session until the process is interrupted.

    Args:
        share: the set that it is.
        port: on the loopback address; 0 takes a free one.
        announce: given the page's address once it is served.

    Raises:
        InputError: for a port that is taken.
    """
    session = LiveSession(NAME, graph.score)
    live = Live(session, Control(session, graph), keep_of(session), share=share)
    try:
        asyncio.run(_serve({NAME: live}, port, announce))
    finally:
        live.close()


def _cell(node: Node, types: Catalogue, hidden: dict[io.Hidden, Any]) -> Cell:
    inputs = {
        name: From(value.node, value.slot) if isinstance(value, Link) else value for name, value in node.inputs.items()
    }
    return Cell(node.id, node.title, types[node.class_type].cls, inputs, hidden=hidden)


def _target(graph: Graph, order: list[Node], name: str | None) -> Node:
    if name is not None:
        found = find_node(graph, name, "--node")
        if found in order and found.class_type in TARGETS:
            return found
        raise WorkflowError(
            f"{found.name} is no node that plays", f"allowed is one of {', '.join(TARGETS)}", "choose another --node"
        )
    playing = sorted((node for node in order if node.class_type in TARGETS), key=lambda n: TARGETS.index(n.class_type))
    if not playing:
        raise WorkflowError(
            "the workflow has nothing that plays", f"allowed is one with {' or '.join(TARGETS)}", "add one"
        )
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
