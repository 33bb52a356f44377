"""Decoders behind one contract: rows in, velocity out."""

from .base import Engine, Limits, Rows
from .eager import EagerEngine

__all__ = ["EagerEngine", "Engine", "Limits", "Rows"]
