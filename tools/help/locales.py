"""Translations of the nodes' texts: python -m tools.help.locales LANGUAGE

`locales/<language>/nodeDefs.json` is written by hand. After a translation this writes down, in `translated.json`, which
English each text is of, so that a test finds those whose English was changed later.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

from ostinato.nodes import NODES

LOCALES = Path(__file__).parents[2] / "locales"
TRANSLATED = Path(__file__).with_name("translated.json")


def english() -> dict[str, Any]:
    """Return the schemas' texts in the form of a locale; ComfyUI reads the English ones from the schemas."""
    made = {}
    for schema in (node.GET_SCHEMA() for node in NODES):
        texts: dict[str, Any] = {"display_name": schema.display_name, "description": schema.description}
        texts["inputs"] = {s.id: {"name": s.display_name or s.id, "tooltip": s.tooltip} for s in schema.inputs}
        outputs = enumerate(schema.outputs)
        texts["outputs"] = {str(i): {"name": s.display_name, "tooltip": s.tooltip} for i, s in outputs}
        made[schema.node_id] = {name: text for name, text in texts.items() if text}
    return made


def flat(texts: Any, path: tuple[str, ...] = ()) -> dict[str, str]:
    """Return each text by its path, joined with dots."""
    if isinstance(texts, str):
        return {".".join(path): texts}
    return {key: text for name, inner in texts.items() for key, text in flat(inner, (*path, name)).items()}


def read(language: str, name: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / f"{name}.json").read_text("utf-8"))


def digest(text: str) -> int:
    return crc32(text.encode())


def changed(language: str) -> list[str]:
    """List the texts whose English is not the one that was translated."""
    known = json.loads(TRANSLATED.read_text("utf-8"))[language]
    return [key for key, text in flat(english()).items() if known.get(key) != digest(text)]


def main() -> None:
    language = sys.argv[1]
    known = json.loads(TRANSLATED.read_text("utf-8")) if TRANSLATED.exists() else {}
    known[language] = {key: digest(text) for key, text in flat(english()).items()}
    TRANSLATED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
