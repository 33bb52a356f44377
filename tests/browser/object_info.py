"""The pack's schemas, made by the headless node API, as ComfyUI's `/object_info` gives them to the editor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.run import widget_of

# Fields of an input that have another name in the editor's form.
RENAMED = {"force_input": "forceInput", "raw_link": "rawLink", "dynamic_prompts": "dynamicPrompts"}
PLAIN = (
    *("display_name", "tooltip", "lazy", "advanced", "default", "socketless", "label_on", "label_off"),
    *("min", "max", "step", "round", "gradient_stops", "multiline", "placeholder", "options"),
    *("control_after_generate", "image_folder", *RENAMED),
)


def object_info(classes: Iterable[type[io.ComfyNode]], module: str) -> dict[str, Any]:
    """Describe node classes as ComfyUI does; `module` is their `python_module`."""
    return {schema.node_id: node_info(schema, module) for schema in (cls.GET_SCHEMA() for cls in classes)}


def node_info(schema: io.Schema, module: str) -> dict[str, Any]:
    inputs: dict[str, dict[str, Any]] = {"required": {}}
    for spec in schema.inputs:
        group = inputs.setdefault("optional" if spec.optional else "required", {})
        group[spec.id] = [spec.get_io_type(), _fields(spec)]
    for hidden in schema.hidden:
        inputs.setdefault("hidden", {})[hidden.name] = [hidden.value]
    outputs = schema.outputs
    return {
        "input": inputs,
        "input_order": {group: list(names) for group, names in inputs.items()},
        "is_input_list": False,
        "output": [output.get_io_type() for output in outputs],
        "output_is_list": [False] * len(outputs),
        "output_name": [output.display_name or output.get_io_type() for output in outputs],
        "output_tooltips": [output.tooltip for output in outputs],
        "output_matchtypes": None,
        "name": schema.node_id,
        "display_name": schema.display_name,
        "description": schema.description,
        "python_module": module,
        "category": schema.category,
        "output_node": schema.is_output_node,
        "deprecated": schema.is_deprecated,
        "experimental": schema.is_experimental,
        "dev_only": schema.is_dev_only,
        "api_node": False,
        "price_badge": None,
        "search_aliases": schema.search_aliases or None,
        "essentials_category": schema.essentials_category,
        "has_intermediate_output": schema.has_intermediate_output,
    }


def _fields(spec: io.Input) -> dict[str, Any]:
    widget = widget_of(spec)
    found = {RENAMED.get(name, name): getattr(widget, name, None) for name in PLAIN}
    if widget.get_io_type() == "COMBO":
        found["multiselect"] = False
    if widget is not spec:
        found["widgetType"] = widget.get_io_type()
    if getattr(widget, "display_mode", None) is not None:
        found["display"] = str(widget.display_mode)
    if getattr(widget, "upload", None) is not None:
        found[widget.upload.value] = True
    if spec.tooltip is not None:
        found["tooltip"] = spec.tooltip
    return {name: value for name, value in found.items() if value is not None} | spec.extra_dict
