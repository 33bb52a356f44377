"""Write the example workflows in the editor's JSON, from `graphs` and the nodes' own schemas.

python -m scripts.make_workflows

They are laid out so that the editor, which fits a template into its window, shows them large enough to read: in few
columns of about the same height. `tests/browser/test_templates.py` measures that in the editor itself.
"""

import json
import math
import uuid
from pathlib import Path

from ostinato.cli import core_nodes
from ostinato.cli.graph import control_widgets, is_widget, widget_default
from ostinato.nodes import NODES

from .graphs import CORE, GRAPHS, MODELS, ORDER, SAME_TAKE

FOLDER = Path(__file__).parent.parent / "example_workflows"

# Pixels at scale 1. A node is as high as the taller of the editor's two canvases makes it.
WINDOW = (1548, 890)  # of the editor, beside and below its bars, in a window of 1600 x 950
WIDTH, GAP, TITLE, BETWEEN = 310, 44, 30, 20
SLOT, ROW, TEXT, EDGE = 24, 34, 76, 46  # of a socket, a widget, a field of several lines, and around all of them
LINE, LETTERS = 24, 38  # height of a line of a note, and letters in it
SHOWN = {  # of what a node shows beside its widgets
    "OstinatoLiveSession": 260,
    "OstinatoCurvePoints": 170,
    "LoadAudio": 120,
    "SaveAudio": 40,
}
NOTE = "MarkdownNote"
SCHEMAS = [*(t.GET_SCHEMA() for t in (*NODES, *core_nodes.CORE_NODES)), *CORE]
TYPES = {schema.node_id: schema for schema in SCHEMAS}


def file_name(name: str) -> str:
    return f"{ORDER.index(name) + 1:02}_{name}.json"


def height(schema) -> int:
    fields = [i for i in schema.inputs if is_widget(i)]
    slots = max(len(schema.inputs) - len(fields), len(schema.outputs))
    rows = sum(TEXT if getattr(i, "multiline", None) else ROW * (1 + min(control_widgets(i), 1)) for i in fields)
    return EDGE + SLOT * slots + rows + SHOWN.get(schema.node_id, 0)


def widgets(schema, given: dict, control: str) -> list:
    """Widget values in the editor's order: required inputs first, and what each adds of its own."""
    values: list = []
    for item in sorted((i for i in schema.inputs if is_widget(i)), key=lambda i: i.optional):
        value = given.get(item.id)
        values.append(widget_default(item) if value is None or isinstance(value, tuple) else value)
        values += [control, None][: control_widgets(item)]
    if schema.node_id == "LoadAudio":
        values += [None, None]  # its player and its upload button
    return values


def note_height(text: str) -> int:
    heading, *rest = text.split("\n")
    lines = sum(math.ceil(len(line) / LETTERS) for line in rest)
    return 90 + LINE * lines + 26 * (len(heading) > 26) + 12 * rest.count("")


def placed(heights: list[int]) -> list[tuple[int, int]]:
    """Place nodes one below the other, column after column, with as many even columns as fill the window best."""

    def columns(limit: int) -> list[tuple[int, int]]:
        places, x, y = [], 0, 0
        for high in heights:
            if y and y + high > limit:
                x, y = x + WIDTH + GAP, 0
            places.append((x, y))
            y += high + TITLE + BETWEEN
        return places

    def extent(places: list[tuple[int, int]]) -> float:
        wide = max(x for x, _ in places) + WIDTH
        tall = max(y + high for (_, y), high in zip(places, heights, strict=True)) + TITLE
        return max(wide / WINDOW[0], tall / WINDOW[1])

    return min((columns(limit) for limit in range(max(heights), sum(heights), 10)), key=extent)


def workflow(name: str, note: str, columns: list) -> dict:
    given = {key: item for column in columns for key, item in column.items()}
    ids = {key: number for number, key in enumerate(given, 2)}
    schemas = {key: TYPES[kind] for key, (kind, _) in given.items()}
    sizes = [note_height(note), *map(height, schemas.values())]
    places = placed(sizes)
    control = "fixed" if name in SAME_TAKE else "randomize"
    nodes = [node(1, NOTE, places[0], sizes[0], [], [], [note])]
    for (key, (kind, values)), place, high in zip(given.items(), places[1:], sizes[1:], strict=True):
        schema = schemas[key]
        inputs = [
            {"name": i.id, "type": i.get_io_type(), "link": None} | ({"widget": {"name": i.id}} if is_widget(i) else {})
            for i in schema.inputs
        ]
        outputs = [
            {"name": o.display_name or o.get_io_type(), "type": o.get_io_type(), "links": []} for o in schema.outputs
        ]
        kept = control if kind == "OstinatoStreamDenoise" else "fixed"
        nodes.append(node(ids[key], kind, place, high, inputs, outputs, widgets(schema, values, kept)))
    links = linked({n["id"]: n for n in nodes}, ids, given)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"ostinato/{name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 0.7, "offset": [70, 150]}},
        "version": 0.4,
    }


def node(number: int, kind: str, place: tuple[int, int], high: int, inputs: list, outputs: list, values: list) -> dict:
    named = {} if kind == NOTE else {"Node name for S&R": kind}
    return {
        "id": number,
        "type": kind,
        "pos": list(place),
        "size": [WIDTH, high],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": named | ({"models": [MODELS[kind]]} if kind in MODELS else {}),
        "widgets_values": values,
    }


def linked(by_id: dict[int, dict], ids: dict[str, int], given: dict) -> list:
    """Connect the nodes, and return the links."""
    links = []
    for key, (_, values) in given.items():
        for slot, item in enumerate(by_id[ids[key]]["inputs"]):
            if isinstance(value := values.get(item["name"]), tuple):
                origin = by_id[ids[value[0]]]["outputs"][value[1]]
                item["link"] = len(links) + 1
                origin["links"].append(item["link"])
                links.append([item["link"], ids[value[0]], value[1], ids[key], slot, origin["type"]])
    return links


if __name__ == "__main__":
    for name, (note, columns) in GRAPHS.items():
        made = json.dumps(workflow(name, note, columns), indent=1) + "\n"
        (FOLDER / file_name(name)).write_text(made, "utf-8")
