"""Live sessions inside ComfyUI: a run of the queue starts or updates one, and they play on beside it.

A session runs the pack's nodes before it again when their widgets move, so it needs the values on all links into them.
ComfyUI has those in its cache, or makes them: each prompt that is queued gets, for its Live Session, the same links as
further inputs, `with_links`. Nothing is kept but what the session holds.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from . import control_values
from .comfy import io
from .live_graph import Cell, From, LiveGraph
from .live_score import LIVE

GIVEN, QUEUED = "given.", "given_at"  # further inputs: `given.<node>.<slot>`, and when the prompt was queued
MAX_NAME = 100  # characters of a session's name, as in a message


def register() -> None:
    """Offer the sessions on ComfyUI's server, and have the values for them come with each prompt."""
    from server import PromptServer

    from ...engine_runtime.serve.routes import Routes

    for route in Routes(sessions(), loopback=False, missing=lacking).table():
        PromptServer.instance.routes.route(route.method, route.path)(route.handler)
    PromptServer.instance.add_on_prompt_handler(with_links)
    atexit.register(sessions().close)  # a thread that computes must not outlive the interpreter


def lacking(prompt: Mapping[str, Any]) -> list[dict[str, str]]:
    """List what a prompt names and this machine does not have, as `missing` does; what is no node is passed over."""
    from dataclasses import asdict

    from .missing import missing

    nodes = [(number, node) for number, node in prompt.items() if isinstance(node, dict)]
    found = [(number, node.get("_meta"), str(node.get("class_type")), node.get("inputs")) for number, node in nodes]
    given = [
        (number, str(meta["title"]) if isinstance(meta, dict) and "title" in meta else kind, kind, inputs)
        for number, meta, kind, inputs in found
        if isinstance(inputs, dict)
    ]
    return [asdict(one) for one in missing(given)]


def sessions() -> Any:
    """Return the sessions of this process."""
    from ...engine_runtime.registry import registry
    from ...engine_runtime.serve.sessions import Sessions

    return registry.one(Sessions)


def play(hidden: io.HiddenHolder, given: Mapping[str, Any]) -> str:
    """Start the session of a Live Session node that runs, or update it; returns its name.

    Args:
        given: the node's inputs, and those of `with_links`.
    """
    from .live_files import keep_of

    prompt, node = hidden.prompt or {}, str(hidden.unique_id)
    name, cells = session_name(hidden), cells_of(prompt, node, given)

    def make(before: Any) -> LiveGraph:
        graph = LiveGraph(cells, node, before=before)
        engine = graph.score.engine
        if before is None or engine is not before.score.engine:
            engine.ready()  # here, for ComfyUI's memory manager is of this thread; the session's finds it loaded
            engine.rest()
        score = graph.score
        control_values.warn_unguided(score.condition, score.guidance, score.knobs, score.tracks, hidden)
        return graph

    sessions().play(name, make, keep_of, given.get(QUEUED, time.monotonic()))
    return name


def session_name(hidden: io.HiddenHolder) -> str:
    """Return `<workflow id>.<node id>`, or the node's id where the workflow has none."""
    workflow = (hidden.extra_pnginfo or {}).get("workflow")
    number = workflow.get("id") if isinstance(workflow, dict) else None
    name = f"{number}.{hidden.unique_id}" if isinstance(number, str) and number else str(hidden.unique_id)
    return name if len(name) <= MAX_NAME else str(hidden.unique_id)


def with_links(data: Any) -> Any:
    """Give each Live Session of a prompt that is about to be queued the links into the pack's nodes before it."""
    prompt = data.get("prompt") if isinstance(data, dict) else None
    if not isinstance(prompt, dict):
        return data
    for number, node in prompt.items():
        if isinstance(node, dict) and node.get("class_type") == LIVE and isinstance(node.get("inputs"), dict):
            links = {link for other in before(prompt, number) for _, link in links_of(prompt, other)}
            own = {link for _, link in links_of(prompt, number)}
            node["inputs"] |= {f"{GIVEN}{link.node}.{link.slot}": [link.node, link.slot] for link in links - own}
            node["inputs"][QUEUED] = time.monotonic()
    return data


def cells_of(prompt: Mapping[str, Any], target: str, given: Mapping[str, Any]) -> list[Cell]:
    """Return the graph of a Live Session as cells, each after those it takes from, with the values of this run.

    A node of the pack whose inputs are not all known, as where the prompt came past `with_links`, keeps its values as a
    foreign one does.
    """
    known = {link: given[name] for name, link in links_of(prompt, target) if name in given}
    for name, value in given.items():
        if name.startswith(GIVEN):
            node, _, slot = name.removeprefix(GIVEN).rpartition(".")
            known[From(node, int(slot))] = value
    ours = dict[str, Mapping[str, Any]]()
    wanted = {target}
    for node in (target, *reversed(before(prompt, target))):
        sources = [link for _, link in links_of(prompt, node)]
        if node in wanted and all(link in known for link in sources):
            ours[node] = prompt[node]
            wanted.update(link.node for link in sources)
    values: dict[str, dict[int, Any]] = {}
    for link, value in known.items():
        values.setdefault(link.node, {})[link.slot] = value
    foreign = [node for node in values if node not in ours]
    hidden = {io.Hidden.prompt: prompt}
    cells = [Cell(node, node, None, {}, values[node]) for node in foreign]
    for node, described in reversed(ours.items()):
        links = dict(links_of(prompt, node))
        inputs = {name: links.get(name, value) for name, value in described["inputs"].items() if not is_given(name)}
        kind = described["class_type"]
        title = described.get("_meta", {}).get("title") or kind
        cells.append(Cell(node, title, pack()[kind], inputs, values.get(node, {}), dict(hidden)))
    return cells


def before(prompt: Mapping[str, Any], target: str) -> list[str]:
    """List the pack's nodes that a node takes from, at first or second hand through the pack's own, in their order."""
    found: dict[str, None] = {}
    path: list[tuple[str, Iterator[str]]] = [(target, (link.node for _, link in links_of(prompt, target)))]
    seen = {target}
    while path:  # no recursion: a long chain must not hit Python's limit
        node, sources = path[-1]
        source = next(sources, None)
        if source is None:
            path.pop()
            if node != target:
                found[node] = None
        elif source not in seen and _is_ours(prompt, source):
            seen.add(source)
            path.append((source, (link.node for _, link in links_of(prompt, source))))
    return list(found)


def links_of(prompt: Mapping[str, Any], node: str) -> list[tuple[str, From]]:
    """List the links into a node, those of `with_links` left out; of a damaged one there are none."""
    inputs = prompt[node].get("inputs")
    found = [] if not isinstance(inputs, dict) else inputs.items()
    return [(name, From(*value)) for name, value in found if not is_given(name) and _is_link(value)]


def is_given(name: str) -> bool:
    """Return whether an input is one of `with_links`."""
    return name.startswith(GIVEN) or name == QUEUED


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _is_ours(prompt: Mapping[str, Any], node: str) -> bool:
    found = prompt.get(node)
    kind = found.get("class_type") if isinstance(found, dict) else None
    return isinstance(kind, str) and kind in pack()


@cache
def pack() -> dict[str, type[io.ComfyNode]]:
    """Return the pack's nodes by id."""
    from .. import NODES

    return {cls.GET_SCHEMA().node_id: cls for cls in NODES}
