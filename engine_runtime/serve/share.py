"""The set of a live session: when changes act and its controllers, as the workflow's file has them; what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .messages import Settings

Write = Callable[[list[dict[str, Any]], Settings], dict[str, Any]]


class Share:
    """The set of one session, to be saved and opened elsewhere. All methods are called in the server's loop.

    Args:
        settings: those of the file.
        missing: what the workflow names and this machine does not have, as `nodes.shared.missing` lists it.
        write: returns the workflow's JSON with these widgets' values and these settings.
    """

    def __init__(self, settings: Settings, missing: list[dict[str, str]], write: Write) -> None:
        self.settings, self.missing, self.write = settings, missing, write
