"""Pictures of the help pages: python -m tools.help.pictures [NODE...]

Each shows a node among the neighbours that its English page names, drawn from the schemas, and below it what the node
does: curves, waveforms and spectrograms that the nodes themselves made with the built-in model.
"""

from __future__ import annotations

import sys

from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.run import widget_of

from . import svg
from .effects import EFFECTS
from .pages import DOCS, OWN, Ends, ends_of, links, neighbours, page, schemas

LEFT, MIDDLE, RIGHT = (svg.PAD, 190), (250, 220), (518, 190)  # x and width of the three columns
NAME = "picture.svg"


def sockets(schema: io.Schema, before: list[str]) -> list[io.Input]:
    """List the inputs that are drawn: those without a widget, and others that a neighbour connects to."""
    ends = [(spec.id, spec.get_io_type()) for spec in schema.inputs]
    wired = {k for name in before for _, k in links(ends_of(name)[1], ends)}
    return [s for i, s in enumerate(schema.inputs) if i in wired or not hasattr(widget_of(s), "default")]


def place(node: str) -> tuple[list[str], float]:
    """Draw a node among its neighbours; returns the parts and the height."""
    schema = schemas()[node]
    before, after = neighbours(page(node, "en").read_text("utf-8"), "en")
    taken: Ends = [(spec.id, spec.get_io_type()) for spec in sockets(schema, before)]
    given: Ends = [(out.display_name or out.io_type, out.get_io_type()) for out in schema.outputs]
    body = svg.TITLE + svg.ROW * max(len(taken), len(given))
    height = max(body, 32 * len(before), 32 * len(after)) + 8
    top = svg.PAD + (height - body) / 2
    x, width = MIDDLE

    def row(i: int) -> float:
        return top + svg.TITLE + svg.ROW * (i + 0.5)

    parts = [
        svg.rect(x, top, width, body + 4, svg.BOX, 'rx="6"'),
        svg.rect(x, top, width, svg.TITLE, svg.HEAD, 'rx="6"'),
    ]
    parts.append(svg.text(x + 10, top + 16, schema.display_name.removesuffix(OWN), 13))
    for i, (name, kind) in enumerate(taken):
        parts += [svg.dot(x, row(i), kind), svg.text(x + 10, row(i) + 4, name, 11)]
    for i, (name, kind) in enumerate(given):
        parts += [svg.dot(x + width, row(i), kind), svg.text(x + width - 10, row(i) + 4, name, 11, anchor="end")]
    wires: list[str] = []
    for names, (left, across) in ((before, LEFT), (after, RIGHT)):
        for i, name in enumerate(names):
            y = svg.PAD + (height - 32 * len(names)) / 2 + 32 * i
            parts += [svg.rect(left, y, across, svg.TITLE, svg.BOX, 'rx="6"')]
            parts += [svg.text(left + 10, y + 16, name, 11, svg.FAINT)]
            inputs, outputs = ends_of(name)
            if names is before:
                wires += [svg.wire(left + across, y + 12, x, row(k), outputs[o][1]) for o, k in links(outputs, taken)]
            else:
                wires += [svg.wire(x + width, row(o), left, y + 12, given[o][1]) for o, _ in links(given, inputs)]
    return [*wires, *parts], height + 2 * svg.PAD


def picture(node: str, plots: list[str], height: float) -> str:
    """Return a node's picture: its place, and under it these plots of this height."""
    parts, top = place(node)
    shown = [f'<g id="place">{"".join(parts)}</g>']
    if plots:
        shown.append(f'<g id="effect" transform="translate(0 {top:g})">{"".join(plots)}</g>')
    return svg.document(shown, top + height)


def main() -> None:
    for node in sys.argv[1:] or schemas():
        plots, height = EFFECTS[node]() if node in EFFECTS else ([], 0.0)
        (DOCS / node / NAME).write_text(picture(node, plots, height), "utf-8")


if __name__ == "__main__":
    main()
