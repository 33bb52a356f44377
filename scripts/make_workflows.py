"""Write the example workflows in the editor's JSON, from `graphs` and the nodes' own schemas.

python scripts/make_workflows.py
"""

import json
import uuid
from pathlib import Path

from graphs import CORE, GRAPHS
from ostinato.cli import core_nodes
from ostinato.cli.graph import control_widgets, is_widget, widget_default
from ostinato.nodes import NODES

FOLDER = Path(__file__).parent.parent / "example_workflows"

WIDTH, GAP, ROW, TITLE = 340, 60, 26, 50  # pixels
SHOWN = {  # pixels of what a node shows once it has run: pictures, players, texts
    "OstinatoStreamStats": 240,
    "OstinatoLiveSession": 250,
    "OstinatoCurvePoints": 190,
    "OstinatoLayerProfile": 300,
    "OstinatoBuildEngine": 130,
    "OstinatoLoadEngine": 200,
    "SaveAudio": 240,
}
SCHEMAS = [*(t.GET_SCHEMA() for t in (*NODES, *core_nodes.CORE_NODES)), *CORE]
TYPES = {schema.node_id: schema for schema in SCHEMAS}


def height(schema) -> int:
    big = sum(3 * ROW for i in schema.inputs if getattr(i, "multiline", None))
    return TITLE + ROW * (len(schema.inputs) + len(schema.outputs) + 1) + big + SHOWN.get(schema.node_id, 0)


def widgets(schema, given: dict) -> list:
    """Widget values in the editor's order: required inputs first, and what each adds of its own."""
    values: list = []
    for item in sorted((i for i in schema.inputs if is_widget(i)), key=lambda i: i.optional):
        value = given.get(item.id)
        values.append(widget_default(item) if value is None or isinstance(value, tuple) else value)
        values += ["fixed", None][: control_widgets(item)]
    if schema.node_id == "LoadAudio":
        values += [None, None]  # its player and its upload button
    return values


def workflow(name: str, note: str, columns: list) -> dict:
    ids, nodes, links = {}, [], []
    for x, column in enumerate(columns):
        y = 190
        for key, (kind, given) in column.items():
            schema, ids[key] = TYPES[kind], len(nodes) + 2
            size = [WIDTH, height(schema)]
            nodes.append(
                {
                    "id": ids[key],
                    "type": kind,
                    "pos": [40 + x * (WIDTH + GAP), y],
                    "size": size,
                    "flags": {},
                    "order": len(nodes),
                    "mode": 0,
                    "inputs": [
                        {"name": i.id, "type": i.get_io_type(), "link": None}
                        | ({"widget": {"name": i.id}} if is_widget(i) else {})
                        for i in schema.inputs
                    ],
                    "outputs": [
                        {"name": o.display_name or o.get_io_type(), "type": o.get_io_type(), "links": []}
                        for o in schema.outputs
                    ],
                    "properties": {"Node name for S&R": kind},
                    "widgets_values": widgets(schema, given),
                }
            )
            y += size[1] + GAP
    by_id = {n["id"]: n for n in nodes}
    for key, (_, given) in (item for column in columns for item in column.items()):
        for slot, item in enumerate(by_id[ids[key]]["inputs"]):
            if isinstance(value := given.get(item["name"]), tuple):
                origin = by_id[ids[value[0]]]["outputs"][value[1]]
                item["link"] = len(links) + 1
                origin["links"].append(item["link"])
                links.append([item["link"], ids[value[0]], value[1], ids[key], slot, origin["type"]])
    text = {
        "id": 1,
        "type": "MarkdownNote",
        "pos": [40, -20],
        "size": [2 * WIDTH + GAP, 140],
        "flags": {},
        "order": len(nodes),
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [note],
    }
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"ostinato/{name}")),
        "revision": 0,
        "last_node_id": len(nodes) + 1,
        "last_link_id": len(links),
        "nodes": [text, *nodes],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 0.7, "offset": [70, 150]}},
        "version": 0.4,
    }


if __name__ == "__main__":
    for name, (note, columns) in GRAPHS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(workflow(name, note, columns), indent=1) + "\n", "utf-8")
