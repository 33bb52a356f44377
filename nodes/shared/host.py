"""Services that a running node asks of the program that runs it: progress, cancelling, device, output files, memory.

Inside ComfyUI they are ComfyUI's; the command line installs its own with `use`. With neither, as in a unit test,
nothing is shown and nothing stops. Call them from the thread the node runs in: from another thread ComfyUI would show
the progress on the wrong node, and could use up the user's Cancel of another prompt. Only `show_text` and `ran_last`
may be called from any thread, and after the node has ended.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engine_runtime.errors import InputError, SessionError
from ...engine_runtime.models.comfy_queue import job_runs

if TYPE_CHECKING:
    from .comfy import io

MAX_PREFIX = 200  # characters
TEXT_EVENT = "ostinato.text"  # of ComfyUI's WebSocket: `node` and `text`
MIN_INTERVAL = 0.1  # seconds between two progress messages of a node; each costs ComfyUI a thread and an event loop


def _ignore_progress(done: int, total: int, node_id: str | None) -> None:
    pass


def _never_cancelled() -> None:
    pass


def _ignore_text(text: str, node_id: str | None) -> None:
    pass


def _always(node_id: str | None, node_type: str) -> bool:
    return True


def _no_room(size: int) -> None:
    pass


def _open(engine: Any, open_again: Callable[[], None]) -> None:
    open_again()


def _no_folders() -> list[Path]:
    return []


def _no_folder(prefix: str, suffix: str) -> Path:
    raise InputError(f"{prefix}{suffix} has nowhere to go", "whoever runs the nodes has the folder", "run a workflow")


@dataclass(frozen=True)
class Host:
    """One program that runs nodes, and what it offers them.

    Attributes:
        progress: shows done, total and node id.
        cancelled: raises to stop the node.
        text: shows a line under a node.
        device: auto, cpu or cuda.
        next_file: returns the path of a new file in the output folder, from a prefix and a suffix.
        output_folders: returns the folders in which files that were written are found again.
        knobs: override those of the graph.
        make_room: frees that many bytes on the GPU where it can.
        bring: loads a built engine onto the GPU before it plays, with a function that reopens it where it was closed.
        ran_last: tells whether the latest graph has a node of that id and type.
        spared: runs a block beside the host's own run, whose Cancel it leaves to that.
    """

    progress: Callable[[int, int, str | None], None] = _ignore_progress
    cancelled: Callable[[], None] = _never_cancelled
    text: Callable[[str, str | None], None] = _ignore_text
    device: str = "auto"
    next_file: Callable[[str, str], Path] = _no_folder
    output_folders: Callable[[], list[Path]] = _no_folders
    knobs: Mapping[str, Any] = field(default_factory=dict)
    make_room: Callable[[int], None] = _no_room
    bring: Callable[[Any, Callable[[], None]], None] = _open
    ran_last: Callable[[str | None, str], bool] = _always
    spared: Callable[[], AbstractContextManager[None]] = nullcontext


# a module global and not a contextvar: a node may call from a thread it started
_installed: Host | None = None
_troubled: set[str | None] = set()  # nodes under which it stands
_aside: ContextVar[bool] = ContextVar("_aside", default=False)


@contextmanager
def aside() -> Iterator[None]:
    """Run nodes beside the host's own run, for the length of a block: they show no progress, and the user's Cancel is
    for others.

    Raises:
        SessionError: where the host's own code stopped them by a Cancel.
    """
    token = _aside.set(True)
    try:
        with current().spared():
            yield
    finally:
        _aside.reset(token)


@contextmanager
def use(host: Host) -> Iterator[Host]:
    """Install a host for the length of a block."""
    global _installed
    before, _installed = _installed, host
    try:
        yield host
    finally:
        _installed = before


def current() -> Host:
    host = _installed or _default_host()
    return replace(host, progress=_ignore_progress, cancelled=_never_cancelled) if _aside.get() else host


def progress(done: int, total: int, node_id: str | None = None) -> None:
    """Show `done` of `total` on the node; None means the node that is running."""
    current().progress(done, total, node_id)


def check_cancelled() -> None:
    """Raise where the user pressed Cancel."""
    current().cancelled()


def ticker(hidden: io.HiddenHolder) -> Callable[[int, int], None]:
    """Return the function that a node calls before each tick: it raises on Cancel and shows the progress."""

    def tick(done: int, total: int) -> None:
        check_cancelled()
        progress(done, total, hidden.unique_id)

    return tick


def show_text(text: str, node_id: str | None) -> None:
    """Show a line of text under the node."""
    current().text(text, node_id)


def show_trouble(text: str, node_id: str | None) -> None:
    """Show what is wrong under the node, until `clear_trouble`."""
    _troubled.add(node_id)
    show_text(text, node_id)


def clear_trouble(node_id: str | None) -> None:
    """Take away what `show_trouble` showed; other text stays."""
    if node_id in _troubled:
        _troubled.discard(node_id)
        show_text("", node_id)


def make_room(size: int) -> None:
    """Free `size` bytes on the GPU, where the host can."""
    current().make_room(size)


def bring(engine: Any, open_again: Callable[[], None]) -> None:
    """Load a built engine onto the GPU before it plays."""
    current().bring(engine, open_again)


def ran_last(node_id: str | None, node_type: str) -> bool:
    """Return whether text for this node would reach it, and not a node of another graph with the same id."""
    return current().ran_last(node_id, node_type)


def knobs() -> Mapping[str, Any]:
    """Return the hot knobs that were set outside the graph."""
    return current().knobs


def device_choice() -> str:
    return current().device


def next_file(prefix: str, suffix: str) -> Path:
    """Return the path of a new numbered file below the output folder."""
    return current().next_file(prefix, suffix)


def output_folders() -> list[Path]:
    """Return the folders in which files that were written are found again."""
    return current().output_folders()


def check_prefix(prefix: str) -> None:
    """Raise `InputError` for a file name prefix that is too long or has control or surrogate characters."""
    if len(prefix) > MAX_PREFIX or any(unicodedata.category(c) in ("Cc", "Cs") for c in prefix):
        raise InputError(
            f"the file name prefix is {prefix!r}",
            f"allowed are {MAX_PREFIX} characters, and none for control",
            "give a short name",
        )


@cache
def _default_host() -> Host:
    from .comfy import HEADLESS

    return Host() if HEADLESS else _comfyui_host()


def _comfyui_host() -> Host:
    import comfy.model_management
    from comfy_api.latest import ComfyAPISync

    from .managed import bring

    execution = ComfyAPISync().execution
    return Host(
        progress=throttled(lambda done, total, node_id: execution.set_progress(done, total, node_id=node_id)),
        cancelled=comfy.model_management.throw_exception_if_processing_interrupted,
        text=_show_text,
        next_file=comfyui_file,
        output_folders=_comfyui_folders,
        make_room=lambda size: comfy.model_management.free_memory(size, comfy.model_management.get_torch_device()),
        bring=bring,
        ran_last=_in_latest_prompt,
        spared=_spared,
    )


@contextmanager
def _spared() -> Iterator[None]:
    """Give a Cancel that ComfyUI's layers took in this block, as every one of them does, back to the job it is for."""
    import comfy.model_management

    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        if job_runs():
            comfy.model_management.interrupt_current_processing()
        raise SessionError(
            "ComfyUI's Cancel came while this was evaluated", "it ends jobs of the queue only", "turn the widget again"
        ) from None


def _show_text(text: str, node_id: str | None) -> None:
    """Send a line to the pack's own extension, for the frontends take their own progress text away after the job."""
    from server import PromptServer

    PromptServer.instance.send_sync(TEXT_EVENT, {"node": node_id, "text": text})


def _in_latest_prompt(node_id: str | None, node_type: str) -> bool:
    from comfy_execution.progress import get_progress_state

    prompt = get_progress_state().dynprompt
    return prompt.has_node(node_id) and prompt.get_node(node_id)["class_type"] == node_type


def comfyui_file(prefix: str, suffix: str) -> Path:
    check_prefix(prefix)

    import folder_paths

    folder, name, number, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{number:05}_{suffix}"


def _comfyui_folders() -> list[Path]:
    import folder_paths

    return [Path(folder_paths.get_output_directory())]


def throttled(send: Callable[[int, int, str | None], Any]) -> Callable[[int, int, str | None], None]:
    sent: dict[str | None, tuple[float, int]] = {}  # node -> time and count of its last message

    def throttled(done: int, total: int, node_id: str | None) -> None:
        now = time.monotonic()
        when, count = sent.get(node_id, (-MIN_INTERVAL, -1))
        if done < total and done > count and now - when < MIN_INTERVAL:  # a count that falls means a new run
            return
        sent[node_id] = (now, done)
        send(done, total, node_id)

    return throttled
