"""Helpers of the nodes that play TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...engine_runtime.errors import EngineBuildError, EngineError, EngineFileError, MemoryShortage, OstinatoError
from . import folders, host
from .comfy import io

if TYPE_CHECKING:
    from ...engine_runtime.engines.contract import Engine
    from ...engine_runtime.models.loading import Model
    from ...engine_runtime.trt.loader import Place

CANNOT_PLAY = (EngineBuildError, EngineError, EngineFileError, MemoryShortage)  # the torch engine plays instead


def owner(hidden: io.HiddenHolder, kind: str) -> str:
    """Return the key under which a node opens engines: its kind and its id. Ids alone repeat between workflows."""
    return f"{kind} {hidden.unique_id}"


class EngineNode(io.ComfyNode):
    """Base of the nodes that open an engine by name; `KIND` is that of `owner`."""

    KIND: ClassVar[str]

    @classmethod
    def who(cls) -> str:
        """Return the key under which this node opens its engine."""
        return owner(cls.hidden, cls.KIND)

    @classmethod
    def validate_inputs(cls, engine: str | None = None) -> bool:
        """Accept any name: `execute` reports an engine that is missing, and a node with `otherwise` does what that
        says.
        """
        return True

    @classmethod
    def fingerprint_inputs(cls, engine: str | None = None, **_: Any) -> str:
        """Change when the engine's files change, or the engine that the node opened is closed or has other weights."""
        return fingerprint(cls.who(), engine)


def place(model: Model | None, hidden: io.HiddenHolder) -> Place:
    """Return where to look for this model's engines, with progress text shown on the node."""
    from ...engine_runtime.trt.loader import Place

    def say(text: str) -> None:
        host.show_text(text, hidden.unique_id)

    return Place(folders.roots(folders.ENGINES), model, host.make_room, say, host.bring)


def message_for(who: str, name: str, error: OstinatoError) -> str:
    """Return the message for an engine that cannot play.

    After a memory shortage, which may pass, the node is marked so that the next run tries again.
    """
    from ...engine_runtime.trt.loader import count_change

    if isinstance(error, MemoryShortage):
        count_change(who, name)
    return str(error)


def fingerprint(who: str, engine: str | None) -> str:
    """Return a text that changes when the node must run again.

    It changes when the engine that the node opened is closed or changed, or when the engine's files change. With
    `engine` None (the name comes through a link and is not known yet) the files of all engines count.
    """
    from ...engine_runtime.trt.files.spec import is_name
    from ...engine_runtime.trt.files.stamp import stamp
    from ...engine_runtime.trt.loader import Place, changes

    find = Place(folders.roots(folders.ENGINES)).find
    names = folders.engine_names() if engine is None else [engine]
    return " ".join([str(changes(who, engine)), *(stamp(find(name)) for name in names if is_name(name))])


def torch_engine(who: str, other: Engine | Model) -> Engine:
    """Return the engine that plays in place of a TensorRT one, and release the engine that `who` had open.

    Args:
        other: an engine, or the model to make an eager one of.
    """
    from ...engine_runtime.models.engines import eager_engine
    from ...engine_runtime.models.loading import Model
    from ...engine_runtime.trt.loader import drop

    drop(who)
    return eager_engine(other) if isinstance(other, Model) else other
