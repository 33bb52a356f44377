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


class Outlets:
    """The listeners of a session. The one that came last has the sound; the others watch.

    Attributes:
        all: in the order in which they came.
    """

    def __init__(self) -> None:
        self.all: tuple[Outlet, ...] = ()

    def add(self, outlet: Outlet) -> None:
        self.all = (*(other for other in self.all if other is not outlet), outlet)

    def drop(self, outlet: Outlet) -> None:
        """Let a listener go; one that is unknown is passed over."""
        self.all = tuple(other for other in self.all if other is not outlet)

    def has_sound(self, outlet: Outlet) -> bool:
        """Return whether a listener is the one that has the sound."""
        return self.all[-1:] == (outlet,)

    def block(self, block: Block) -> None:
        for outlet in self.all[-1:]:
            outlet.block(block)

    def changed(self) -> None:
        for outlet in self.all:
            outlet.changed()

    def failed(self, error: Exception) -> None:
        for outlet in self.all:
            outlet.failed(error)
