"""Shared by the commands: exit codes, errors in one sentence, the command as typed, the output folder, the bar."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..engine_runtime import packages
from ..engine_runtime.errors import LONGEST, InputError, OstinatoError, plain

if TYPE_CHECKING:
    from .graph import Node

REFUSED, FAILED, INTERRUPTED = 2, 1, 130  # exit codes


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors that a user may meet into one sentence on stderr and an exit code; others keep their traceback."""
    try:
        with packages.named():
            yield
    except (OstinatoError, OSError) as error:
        raise _exit(error, REFUSED if isinstance(error, InputError) else FAILED) from None
    except KeyboardInterrupt:
        raise _exit("stopped", INTERRUPTED) from None
    except Exception as error:
        from .execute import Failure  # here, because what runs no graph needs none of its packages

        if not isinstance(error, Failure) or not error.expected:
            raise
        raise _exit(error, REFUSED if isinstance(error.__cause__, InputError) else FAILED) from None


def where(device: str, precision: str) -> tuple[Any, Any]:
    """Return the device and the dtype that options name, as `pick_device` and `pick_dtype` choose them."""
    from ..engine_runtime.models.loading import pick_device, pick_dtype

    place = pick_device(device)
    return place, pick_dtype(precision, place)


def command_of(context: typer.Context, *under: str) -> str:
    """Return the command with all its options, defaults included, except those that name files to write."""
    words = ["ostinato", *under]
    for name in (option.name for option in context.command.params):
        value = context.params.get(name or "")
        if value is True and name != "as_json":
            words.append(f"--{name}")
        elif name not in ("plot", "keep") and not isinstance(value, bool) and value not in (None, ""):
            words += [f"--{name.replace('_', '-')}", f"{value}"]
    return shlex.join([*words, "--json"])


def listed(text: str) -> tuple[str, ...]:
    """Split words at commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(name: str, text: str, kind: type) -> tuple:
    """Read numbers with commas between. Raises `InputError` for anything else."""
    try:
        return tuple(kind(word) for word in listed(text)) or (kind(text),)
    except ValueError as error:
        raise InputError(f"{name} is {text!r}", "allowed are numbers with commas", "write 4 or 1,2,4,8") from error


def check_folder(out: Path) -> None:
    """Raise `WorkflowError` where a file stands in the place of the output folder, before any music is made."""
    from .graph import WorkflowError

    blocked = next((path for path in (out, *out.parents) if os.path.exists(path) and not os.path.isdir(path)), None)
    if blocked is not None:
        raise WorkflowError(f"--out is {out} and {blocked} is a file", "files need a folder", "choose another --out")


class Bar:
    """One tqdm bar on stderr, for the node or command that runs."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def start(self, node: Node) -> None:
        self.named(node.title)

    def named(self, title: str) -> None:
        if not self.enabled:
            return
        from tqdm import tqdm

        self.close()
        self.bar = tqdm(desc=plain(title, 60), total=1, leave=False, file=sys.stderr)

    def progress(self, done: int, total: int, node_id: str | None = None) -> None:
        if self.bar is not None:
            self.bar.total = total
            self.bar.update(done - self.bar.n)


def _exit(message: object, code: int) -> typer.Exit:
    typer.echo(f"ostinato: {plain(message, 4 * LONGEST)}", err=True)
    return typer.Exit(code)
