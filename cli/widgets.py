"""The values of a node's widgets in the editor's form: by position, with those of controls between them, or by name."""

from __future__ import annotations

from typing import Any

from .graph import Node, NodeType, WorkflowError, check_input_name, control_widgets, is_widget, widget_default
from .schema import EditorNode

CONTROLS = (None, "fixed", "increment", "decrement", "randomize", "increment-wrap")


def widget_values(node: Node, node_type: NodeType, raw: EditorNode) -> dict[str, Any]:
    """Return widget values by input name; those missing in the file get the widget's default, as in the editor."""
    widgets = [spec for spec in node_type.inputs if is_widget(spec)]
    if isinstance(raw.widgets_values, dict):
        extra = {f"{w.id}_control_after_generate" for w in widgets} | {"control_after_generate", "control_filter_list"}
        given = {k: v for k, v in raw.widgets_values.items() if k not in extra and check_input_name(node, node_type, k)}
    else:
        given = _by_position(node, node_type, widgets, raw.values)
    found = {w.id: given[w.id] if given.get(w.id) is not None else widget_default(w) for w in widgets}
    return {name: value for name, value in found.items() if value is not None}


def value_place(node_type: NodeType, values: list[Any], name: str) -> tuple[int, list[Any]]:
    """Return where a node's list of values has that of a widget, and the list, with defaults up to there.

    Raises:
        KeyError: for no widget.
    """
    filled, at = list(values), 0
    for widget in (spec for spec in node_type.inputs if is_widget(spec)):
        if at >= len(filled):
            filled.append(widget_default(widget))
        if widget.id == name:
            return at, filled
        at += 1
        extra = control_widgets(widget)
        if extra and at < len(filled) and filled[at] in CONTROLS:
            at += extra
        elif extra and at >= len(filled):
            filled += ["fixed", *[""] * (extra - 1)]
            at += extra
    raise KeyError(name)


def _by_position(node: Node, node_type: NodeType, widgets: list[Any], values: list[Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    at = 0
    for widget in widgets:
        if at >= len(values):
            break
        given[widget.id] = values[at]
        at += 1
        extra = control_widgets(widget)
        # files saved before the input had a control have no value for it
        if extra and at < len(values) and values[at] in CONTROLS:
            at += extra
    surplus = [value for value in values[at:] if value not in (None, "")]
    if surplus and not node_type.lenient:
        raise WorkflowError(
            f"{node.name} has {len(surplus)} widget values more than this version of {node.class_type} has widgets",
            f"its widgets are {', '.join(w.id for w in widgets) or 'none'}",
            "update Ostinato, or open the workflow in ComfyUI, check the node and save it again",
        )
    return given
