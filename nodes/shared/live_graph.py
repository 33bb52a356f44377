"""A graph as an instrument: the values of its last run are kept, and only what a moved widget reaches runs again.

ComfyUI's prompt and a workflow on the command line both become `Cell`s. The pack's nodes are pure functions, so running
some of them again, outside the queue, gives what a whole run would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...engine_runtime.constants import LIVE_MODES
from ...engine_runtime.errors import InputError
from ...engine_runtime.live.beat import Tempo
from . import host
from .comfy import io
from .live_score import Scorer, usual_cost
from .run import checker_arguments, run_node, widget_of
from .widget_value import NotTaken, check_limits, converted

Place = tuple[str, str]  # node id and input
SESSION = "session"  # the id under which the session's own widgets are found
MAX_TEXT = 20_000  # characters
# Widgets that name files or load weights are turned in the graph and not from afar.
FIXED = ("OstinatoLoadModel", "OstinatoEngine", "OstinatoLoadEngine", "OstinatoBuildEngine", "OstinatoRefitLora")
FIXED_INPUTS = ("count", "adapter")


@dataclass(frozen=True)
class From:
    """An input that comes from another node's output."""

    node: str
    slot: int


@dataclass(eq=False)
class Cell:
    """One node of the graph.

    Attributes:
        cls: its class; None for a node of ComfyUI or another pack, which keeps the values of its last run.
        inputs: constants and `From`, by name.
        values: its outputs by slot, as far as the graph uses them; a cell that comes with some has run already.
    """

    id: str
    title: str
    cls: type[io.ComfyNode] | None
    inputs: dict[str, Any]
    values: dict[int, Any] = field(default_factory=dict)
    hidden: dict[io.Hidden, Any] = field(default_factory=dict)

    def sources(self) -> Iterable[str]:
        return (value.node for value in self.inputs.values() if isinstance(value, From))


class LiveGraph:
    """The graph of one session.

    Args:
        cells: all that `target` needs and itself, each after those it takes from.
        target: the node whose inputs are what the session plays.
        model: returns the model whose VAE makes the sound, of the values of all cells; without it the target has it.
        mode: of a target that has no widget for it.
        started: told the title of each node before it runs the first time.
        before: the graph whose place this one takes: what was made of the same inputs is not made again.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        target: str,
        model: Callable[[Mapping[str, Cell]], Any] | None = None,
        mode: str = LIVE_MODES[0],
        started: Callable[[str], None] = lambda title: None,
        before: LiveGraph | None = None,
    ) -> None:
        self._cells = {cell.id: cell for cell in cells}
        self._target, self._model, self.mode = self._cells[target], model, mode
        self._scorer: Scorer = Scorer() if before is None else before._scorer
        for cell in self._cells.values():
            if cell is not self._target and cell.cls is not None and not cell.values:
                started(cell.title)
                cell.values = self._run(cell)
        self.score = self._scored()

    @property
    def tempo(self) -> Tempo:
        """Return the tempo and the beats of a bar that the first prompt with a tempo asks for."""
        for cell in self._cells.values():
            bpm, beats = (self._value(cell.inputs.get(name)) for name in ("bpm", "time_signature"))
            if isinstance(bpm, int | float) and bpm:
                number = re.match(r"\s*([1-9]\d?)(?!\d)", beats) if isinstance(beats, str) else None
                return Tempo(float(bpm), int(number[1])) if number else Tempo(float(bpm))
        return Tempo()

    def widgets(self) -> list[dict[str, Any]]:
        """Describe what can be turned, in the order of the graph, with the values of now."""
        found: list[dict[str, Any]] = []
        if "mode" not in self._target.inputs:
            mode = {"node": SESSION, "input": "mode", "title": "Session", "kind": "choice", "options": list(LIVE_MODES)}
            help = "loop goes round; endless goes on from what was heard."
            found.append(mode | {"value": self.mode, "help": help, "cost": usual_cost("mode", {"mode"})})
        reached = self._reached()
        for cell in self._cells.values():
            for spec in _widgets(cell):
                inputs = {spec.id} if cell is self._target else reached[cell.id]
                cost = {"cost": usual_cost(spec.id, inputs)}
                found.append({"node": cell.id, "title": cell.title, **_described(spec, cell.inputs[spec.id]), **cost})
        return found

    def _reached(self) -> dict[str, set[str]]:
        """Return the inputs of the target that each node reaches, by id."""
        reached: dict[str, set[str]] = {cell: set() for cell in self._cells}
        for cell in reversed(self._cells.values()):
            for name, value in cell.inputs.items():
                if isinstance(value, From):
                    reached[value.node] |= {name} if cell is self._target else reached[cell.id]
        return reached

    def check(self, place: Place, value: Any) -> Any:
        """Return the value as the widget takes it.

        Raises:
            InputError: for a widget that is not among `widgets`, or a value that it does not take.
        """
        if place == (SESSION, "mode") and "mode" not in self._target.inputs:
            return _checked("the mode", io.Combo.Input("mode", options=list(LIVE_MODES)), value)
        cell = self._cells.get(place[0])
        spec = None if cell is None else next((spec for spec in _widgets(cell) if spec.id == place[1]), None)
        if cell is None or spec is None:
            raise InputError(
                f"there is no live widget {place[1]!r} at node {place[0]!r}",
                "allowed are those that the session lists",
                "load the page again",
            )
        return _checked(f"{place[1]} of {cell.title}", spec, value)

    def turn(self, changes: Mapping[Place, Any]) -> Any:
        """Change checked values, run what they reach, return the score; where a node raises, nothing changed."""
        before = self.mode, {cell.id: (dict(cell.inputs), cell.values) for cell in self._cells.values()}
        reached: set[str] = set()
        try:
            for (node, name), value in changes.items():
                if node == SESSION:
                    self.mode = value
                elif node not in self._cells:  # it was turned in a graph of before
                    raise InputError(f"node {node!r} plays no more", "allowed are those that play", "queue it again")
                else:
                    self._cells[node].inputs[name] = value
                    reached.add(node)
            with host.aside():
                for cell in self._cells.values():
                    if cell is self._target or cell.cls is None:
                        continue
                    if cell.id in reached or reached.intersection(cell.sources()):
                        reached.add(cell.id)
                        cell.values = self._run(cell)
                self.score = self._scored()
        except BaseException:
            self.mode, kept = before
            for node, (inputs, values) in kept.items():
                self._cells[node].inputs, self._cells[node].values = inputs, values
            raise
        return self.score

    def _given(self, cell: Cell) -> dict[str, Any]:
        return {name: self._value(value) for name, value in cell.inputs.items()}

    def _value(self, value: Any) -> Any:
        return self._cells[value.node].values[value.slot] if isinstance(value, From) else value

    def _run(self, cell: Cell) -> dict[int, Any]:
        assert cell.cls is not None
        constants = {name: value for name, value in cell.inputs.items() if not isinstance(value, From)}
        self._ask(cell, constants)
        import torch

        with torch.inference_mode():
            output = run_node(cell.cls, self._given(cell), cell.hidden | {io.Hidden.unique_id: cell.id})
        return dict(enumerate(output.args))

    @staticmethod
    def _ask(cell: Cell, constants: dict[str, Any]) -> None:
        """Raise `InputError` where the node's own check of its inputs refuses them."""
        takes_all, names = (False, []) if cell.cls is None else checker_arguments(cell.cls)
        # one that asks for the types of links is passed over: they do not change here
        if cell.cls is None or not (takes_all or names) or "input_types" in names:
            return
        answer = cell.cls.validate_inputs(**{name: value for name, value in constants.items() if name in names})
        if answer is not True:
            raise InputError(f"{cell.title} refuses", str(answer).rstrip("."), "change it back, or to something else")

    def _scored(self) -> Any:
        import torch

        given = self._given(self._target)
        model = given["model"] if self._model is None else self._model(self._cells)
        with torch.inference_mode():
            return self._scorer.score(given, model, given.get("mode", self.mode), self.tempo.bpm)


def _widgets(cell: Cell) -> list[io.Input]:
    """List the inputs of a cell that can be turned: widgets with a value of their own that name no file."""
    if cell.cls is None or cell.cls.GET_SCHEMA().node_id in FIXED:
        return []
    given = [
        spec for spec in cell.cls.GET_SCHEMA().inputs if not isinstance(cell.inputs.get(spec.id, From("", 0)), From)
    ]
    return [spec for spec in given if widget_of(spec).get_io_type() in KINDS and spec.id not in FIXED_INPUTS]


KINDS = {"INT": "whole", "FLOAT": "number", "BOOLEAN": "toggle", "COMBO": "choice", "STRING": "text", "CURVE": "curve"}


def _described(spec: io.Input, value: Any) -> dict[str, Any]:
    help, spec = spec.tooltip or "", widget_of(spec)
    limits = {name: getattr(spec, name, None) for name in ("min", "max", "step", "options", "multiline")}
    return {
        "input": spec.id,
        "kind": KINDS[spec.get_io_type()],
        "value": value,
        "help": help,
        **{name: limit for name, limit in limits.items() if limit is not None},
    }


def _checked(name: str, spec: io.Input, value: Any) -> Any:
    """Convert a value to its widget's type and check its limits. Raises `InputError`."""
    try:
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise NotTaken(f"at most {MAX_TEXT} characters")
        value = converted(spec, value)
        check_limits(spec, value)
    except NotTaken as error:
        raise InputError(f"{name} is {value!r}", f"allowed is {error}", "correct it") from None
    return value
