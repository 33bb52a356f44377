"""TensorRT's Python bindings as `scripts/make_bindings.py` wrote them down, and stubs for mypy made from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "unit" / "data" / "bindings"
RELEASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
FULL = {name: data for name, data in RELEASES.items() if name.startswith("tensorrt-")}
RTX = {name: data for name, data in RELEASES.items() if name.startswith("tensorrt_rtx-")}

_HEAD = """\
import collections.abc, typing, typing_extensions
from typing import Any, overload
import numpy
__version__: str
"""
_TYPES = re.compile(r"(?:: |-> |\[|, )([A-Z]\w*)")


def stub(data: dict[str, Any]) -> str:
    """The text of a `.pyi` with the classes and enums of one release, and nothing that it does not have."""
    lines, used = [_HEAD], set()
    for name, members in data["classes"].items():
        body = [line for member, what in members.items() for line in _member(name, member, what)]
        used |= {match for line in body for match in _TYPES.findall(line)}
        body += [
            f"    {line}"
            for one, of in data["enums"].items()
            if one == f"{name}.Severity"
            for line in _enum("Severity", one, of)
        ]
        if name == "Dims":
            body += ["    def __len__(self) -> int: ...", "    def __iter__(self) -> typing.Iterator[int]: ..."]
        lines += [f"class {name}:", *(body or ["    pass"])]
    enums = {name: members for name, members in data["enums"].items() if "." not in name}
    lines += [line for name, members in enums.items() for line in _enum(name, name, members)]
    lines += [f"class {name}: ..." for name in sorted(used - {*data["classes"], *enums, "None", "Any"})]
    return "\n".join(lines) + "\n"


def _enum(name: str, path: str, members: list[str]) -> list[str]:
    return [f"class {name}:", *(f"    {member}: {path}" for member in members), "    name: str", "    value: int"]


def _member(of: str, name: str, what: Any) -> list[str]:
    if isinstance(what, dict):
        lines = ["    @property", f"    def {name}(self) -> {what['get']}: ..."]
        if what["set"]:
            lines += [f"    @{name}.setter", f"    def {name}(self, value: {what['get']}) -> None: ..."]
        return lines
    lines = []
    for signature in what:
        text = signature.replace(f"self: {of}", "self").replace("= None", "= ...").replace("buffer)", "bytes)")
        lines += (["    @overload"] if len(what) > 1 else []) + [f"    def {name}{text}: ..."]
    return lines


def parameters(signature: str) -> list[str]:
    """Names of a method's parameters after `self`."""
    inside = signature[1 : signature.rindex(") -> ")]
    return re.findall(r"(?:^|, )(\w+)(?=:)", inside)[1:]
