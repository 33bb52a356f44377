"""The listeners of a live session, as it sees them."""

from __future__ import annotations

from typing import Protocol

from .block import Block


class Outlet(Protocol):
    """A listener of a session. Its methods are called from the session's threads and must not wait."""

    def block(self, block: Block) -> None:
        """Take a piece of sound."""
        ...

    def changed(self) -> None:
        """Learn that the state or the figures changed."""
        ...

    def failed(self, error: Exception) -> None:
        """Learn what went wrong; the session lives on."""
        ...
