"""What the nodes share that play TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...engine_runtime.errors import EngineBuildError, EngineError, EngineFileError, MemoryShortage, OstinatoError
from . import folders, host

if TYPE_CHECKING:
    from ...engine_runtime.engines.base import Engine
    from ...engine_runtime.models.loading import Model
    from ...engine_runtime.trt.loader import Place

BLOCKS = (EngineBuildError, EngineError, EngineFileError, MemoryShortage)  # what leaves the torch engine to play


def owner(hidden: Any, kind: str) -> str:
    """Who opens engines: a node of one kind; ids alone come again in every workflow."""
    return f"{kind} {hidden.unique_id}"


def place(model: Model | None, hidden: Any) -> Place:
    """Where engines for this model are, as the node tells of it."""
    from ...engine_runtime.trt.loader import Place

    def say(text: str) -> None:
        host.show_text(text, hidden.unique_id)

    return Place(folders.roots(folders.ENGINES), model, host.make_room, say, host.bring)


def heed(who: str, name: str, error: OstinatoError) -> str:
    """What is said of an engine that cannot play; for want of memory, which may pass, the next run tries again."""
    from ...engine_runtime.trt.loader import turned

    if isinstance(error, MemoryShortage):
        turned(who, name)
    return str(error)


def stamp(who: str, engine: str | None) -> str:
    """Changes when what a node was given is closed or changed, or the files of its engine are; of any, where the name
    is linked and not known yet."""
    from ...engine_runtime.trt.files.spec import is_name
    from ...engine_runtime.trt.files.stamp import stamp
    from ...engine_runtime.trt.loader import Place, turns

    find = Place(folders.roots(folders.ENGINES)).find
    names = folders.engine_names() if engine is None else [engine]
    return " ".join([str(turns(who, engine)), *(stamp(find(name)) for name in names if is_name(name))])


def torch_engine(who: str, fallback: Engine | None, model: Model) -> Engine:
    """The engine that is connected, else eager on the model; what `who` had open before is let go of."""
    from ...engine_runtime.models.engines import eager_engine
    from ...engine_runtime.trt.loader import drop

    drop(who)
    return fallback or eager_engine(model)
