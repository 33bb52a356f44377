"""What the nodes share that play TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine_runtime.errors import EngineBuildError, EngineError, EngineFileError, MemoryShortage
from . import folders, host

if TYPE_CHECKING:
    from ..engine_runtime.engines import Engine
    from ..engine_runtime.models.loading import Model
    from ..engine_runtime.trt.loader import Place

BLOCKS = (EngineBuildError, EngineError, EngineFileError, MemoryShortage)  # what leaves the torch engine to play


def owner(hidden: Any, kind: str) -> str:
    """Who opens engines: a node of one kind; ids alone come again in every workflow."""
    return f"{kind} {hidden.unique_id}"


def place(model: Model | None, hidden: Any) -> Place:
    """Where engines for this model are, as the node tells of it."""
    from ..engine_runtime.trt.loader import Place

    return Place(
        folders.roots(folders.ENGINES), model, host.make_room, lambda text: host.show_text(text, hidden.unique_id)
    )


def torch_engine(fallback: Engine | None, model: Model) -> Engine:
    """The engine that is connected, else eager on the model."""
    from ..engine_runtime.models.loading import eager_engine

    return fallback or eager_engine(model)
