"""Help pages of the nodes: python -m tools.help.pages

`web/docs/<node>/<language>.md` is written by hand down to the table of inputs; the tables are written here from the
node's schema, in another language than English from its locale. A page names nodes in bold and inputs in `code`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ostinato.nodes import NODES
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.run import widget_of

from .locales import read

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "web" / "docs"
OWN = " (Ostinato)"  # what ends the display name of each node

NUMBERS = {"FLOAT", "INT", "STRING"}  # types that fit by name only: not each number is meant for each other
Ends = list[tuple[str, str]]  # name and types of sockets

# ComfyUI's own nodes that pages name, with the types of what they take and give.
CORE: dict[str, tuple[list[str], list[str]]] = {
    "BasicGuider": (["MODEL", "CONDITIONING"], ["GUIDER"]),
    "BasicScheduler": (["MODEL"], ["SIGMAS"]),
    "CFGGuider": (["MODEL", "CONDITIONING"], ["GUIDER"]),
    "Empty Ace Step 1.5 Latent Audio": ([], ["LATENT"]),
    "KSamplerSelect": ([], ["SAMPLER"]),
    "Load Audio": ([], ["AUDIO"]),
    "Load Checkpoint": ([], ["MODEL", "CLIP", "VAE"]),
    "Load Diffusion Model": ([], ["MODEL"]),
    "Preview Audio": (["AUDIO"], []),
    "Preview Image": (["IMAGE"], []),
    "RandomNoise": ([], ["NOISE"]),
    "SamplerCustomAdvanced": (["NOISE", "GUIDER", "SAMPLER", "SIGMAS", "LATENT"], ["LATENT"]),
    "Save Audio (FLAC)": (["AUDIO"], []),
    "TextEncodeAceStepAudio1.5": (["CLIP"], ["CONDITIONING"]),
    "VAE Decode Audio": (["LATENT", "VAE"], ["AUDIO"]),
    "VAE Encode Audio": (["AUDIO", "VAE"], ["LATENT"]),
}


@dataclass(frozen=True)
class Language:
    """The words of a page that are the same on each, in one language."""

    neighbours: str
    before: str
    after: str
    wrong: str
    inputs: str
    outputs: str
    input_head: str
    output_head: str
    optional: str


LANGUAGES = {
    "en": Language(
        neighbours="## Neighbours",
        before="- Before:",
        after="- After:",
        wrong="## What goes wrong",
        inputs="## Inputs",
        outputs="## Outputs",
        input_head="| input | type | default | |",
        output_head="| output | type | |",
        optional="optional",
    ),
    "zh": Language(
        neighbours="## 相邻节点",
        before="- 之前：",
        after="- 之后：",
        wrong="## 可能出什么问题",
        inputs="## 输入",
        outputs="## 输出",
        input_head="| 输入 | 类型 | 默认值 | |",
        output_head="| 输出 | 类型 | |",
        optional="可选",
    ),
}


@cache
def schemas() -> dict[str, io.Schema]:
    """Return the schema of every node by its id."""
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in NODES)}


@cache
def locale(language: str) -> dict[str, Any]:
    """Read a language's texts of the nodes; English is in the schemas."""
    return {} if language == "en" else read(language, "nodeDefs")


@cache
def titles(language: str = "en") -> dict[str, str]:
    """Return the id of each node by its display name without the pack's."""
    names = {node: locale(language)[node]["display_name"] if language != "en" else None for node in schemas()}
    return {(names[node] or schema.display_name).removesuffix(OWN): node for node, schema in schemas().items()}


def page(node: str, language: str) -> Path:
    """Return where the host looks for a node's page."""
    return DOCS / node / f"{language}.md"


def neighbours(text: str, language: str) -> tuple[list[str], list[str]]:
    """Return the names of the nodes that a page's text puts before and after its node."""
    words = LANGUAGES[language]
    return _named(text, words.before), _named(text, words.after)


def _named(text: str, start: str) -> list[str]:
    line = next((line for line in text.splitlines() if line.startswith(start)), "")
    return re.findall(r"\*\*(.+?)\*\*", line)


def ends_of(name: str, language: str = "en") -> tuple[Ends, Ends]:
    """Return the inputs and the outputs of a node, by its name on a page."""
    if name in CORE:
        taken, given = CORE[name]
        return [(kind, kind) for kind in taken], [(kind, kind) for kind in given]
    schema = schemas()[titles(language)[name]]
    inputs = [(spec.id, spec.get_io_type()) for spec in schema.inputs]
    return inputs, [(spec.display_name or spec.io_type, spec.get_io_type()) for spec in schema.outputs]


def links(given: Ends, taken: Ends) -> list[tuple[int, int]]:
    """Return which outputs go to which inputs, as pairs of their places."""
    fitting = []
    for i, (name, kind) in enumerate(given):
        for k, (wanted, kinds) in enumerate(taken):
            if kind in kinds.split(",") and (kind not in NUMBERS or name == wanted):
                fitting.append((i, k))
    return fitting


def tables(node: str, language: str) -> str:
    """Return the tables of inputs and outputs of a node as Markdown."""
    words, schema, texts = LANGUAGES[language], schemas()[node], locale(language).get(node, {})
    lines: list[str] = []
    if schema.inputs:
        lines += [words.inputs, "", words.input_head, "|---|---|---|---|"]
        lines += [_input(spec, texts.get("inputs", {}).get(spec.id, {}), words) for spec in schema.inputs]
    if schema.outputs:
        lines += ["", words.outputs, "", words.output_head, "|---|---|---|"]
        for i, spec in enumerate(schema.outputs):
            own = texts.get("outputs", {}).get(str(i), {})
            name = _both(spec.display_name or spec.io_type, own.get("name"))
            lines.append(f"| {name} | {_kinds(spec)} | {_cell(own.get('tooltip', spec.tooltip))} |")
    return "\n".join(lines).strip() + "\n"


def _input(spec: io.Input, own: dict[str, str], words: Language) -> str:
    default = getattr(widget_of(spec), "default", None)
    shown = "" if isinstance(default, dict) or default in (None, "") else f"`{_cell(str(default))}`"
    shown = words.optional if not shown and spec.optional else shown
    tooltip = _cell(own.get("tooltip", spec.tooltip))
    return f"| {_both(spec.id, own.get('name'))} | {_kinds(spec)} | {shown} | {tooltip} |"


def _both(name: str, label: str | None) -> str:
    return f"`{name}`" if label in (None, name) else f"`{name}`<br>{label}"


def _kinds(spec: io.Input | io.Output) -> str:
    return ", ".join(kind.removeprefix("OSTINATO_") for kind in spec.get_io_type().split(","))


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


def with_tables(text: str, node: str, language: str) -> str:
    """Return a page's text with its tables as the schema has them now."""
    words = LANGUAGES[language]
    starts = [at for heading in (words.inputs, words.outputs) if (at := text.find(f"\n{heading}\n")) >= 0]
    return text[: min(starts, default=len(text))].rstrip() + "\n\n" + tables(node, language)


def main() -> None:
    for node in schemas():
        for language in LANGUAGES:
            path = page(node, language)
            path.write_text(with_tables(path.read_text("utf-8"), node, language), "utf-8")


if __name__ == "__main__":
    main()
