"""Write every page that shows measured figures, from the kept JSON files and the pages' templates.

python scripts/results.py

`scripts/pages` has the templates: prose, with a field in braces for each figure, as `figures` says, or for a table:

    {files[h200]} {runs[h200]} {fits[h200]}  all files of a folder, all their results, and what `bench fits` found
    {cards[all]}                             what `ostinato plan` says of every card

A new file needs its line in `FILES`, and shows in those tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from figures import Field, fields, file
from ostinato.engine_runtime.bench import kept
from ostinato.engine_runtime.plan.plan import overview

ROOT = Path(__file__).parent.parent
TEMPLATES = Path(__file__).parent / "pages"
RESULTS = "engine_runtime/bench/results"
PAGES = {  # by template; of `readme` the part between the marks
    "benchmarks": "docs/benchmarks.md",
    "h100-80gb": f"{RESULTS}/h100-80gb/README.md",
    "h200": f"{RESULTS}/h200/README.md",
    "readme": "README.md",
}
MARKS = "<!-- figures -->\n", "<!-- end of figures -->\n"
FILES = {
    "h100-80gb/targets": "the four targets, with references",
    "h100-80gb/modes": "no guidance, `initialize` and `self`",
    "h100-80gb/controls": "every control at once",
    "h100-80gb/controls-guided": "the same with full guidance",
    "h100-80gb/host-ahead": "a host that never waits",
    "h100-80gb/one-session": "one session of depth 4 and of 8",
    "h100-80gb/sessions-2x2": "2 sessions of depth 2",
    "h100-80gb/sessions-4x2": "4 sessions of depth 2",
    "h100-80gb/sessions-8x1": "8 sessions of depth 1",
    "h100-80gb/scaling": "depths 1 to 8, 10 to 240 s",
    "h100-80gb/chosen-2b": "fp8 with what it leaves out, and int8, beside bf16",
    "h100-80gb/chosen-2b-outliers": "the same with massive activations planted",
    "h100-80gb/chosen-xl": "the XL size, bf16 and fp8",
    "h100-80gb/xl-again": "the same on another day, and another H100",
    "h100-80gb/profile-2b-compiled": "where a tick goes, bf16",
    "h100-80gb/profile-2b-compiled-guided": "the same with full guidance",
    "h100-80gb/profile-2b-fp8": "where a tick goes, fp8",
    "h100-80gb/profile-2b-fp8-guided": "the same with full guidance",
    "h100-80gb/profile-xl-compiled": "where a tick of the XL size goes, bf16",
    "h100-80gb/profile-xl-fp8": "the same in fp8",
    "h100-80gb/fp8-errors": "float8's error on five draws",
    "h100-80gb/int8-errors": "int8's error on the same",
    "h100-80gb/fits-8gb": "what fits in 8 GB",
    "h100-80gb/fits-8gb-guided": "the same with full guidance",
    "h100-80gb/fits-12gb-fp8": "fp8 in 12 GB",
    "h100-80gb/fits-16gb-xl": "the XL size in 16 GB",
    "h100-80gb/guidance-every-1": "full guidance whose negative is decoded at every step",
    "h100-80gb/guidance-every-2": "the same at every second step",
    "h100-80gb/guidance-every-3": "the same at every third",
    "h100-80gb/async-allocator": "bf16 and fp8 on `cudaMallocAsync`, without graphs",
    "h100-80gb/load-xl": "host memory that loading XL takes, float32 in shards to bf16",
    "h100-80gb/vae": "windows of the VAE back to back beside the ticks",
    "h100-80gb/vae-paced": "a window every 0.1 s",
    "h100-80gb/live-compiled": "a live session, bf16",
    "h100-80gb/live-fp8": "a live session, fp8",
    "h100-80gb/live-moving": "a live session in which every generation has another seed",
    "h100-80gb/live-again": "a live session's first sound, and that of a further one",
    "h100-80gb/soak": "20,000 ticks at random, of `tiny`",
    **{
        f"h200/before-after-{run}": "before (A) and after (B) files and words moved" for run in ("A1", "A2", "B1", "B2")
    },
    **{f"h200/again-{run}": "the same on another day" for run in ("A1", "A2", "A3", "B1", "B2", "B3")},
}
CODE = {  # commits whose sources have a hash
    "cda1766311bc35f4": "3700996",
    "2880fe7322123e7e": "a00a792",
    "ddbcf678fded18b9": "7e02cfc",
    "1581ff9a0f1e9dc7": "9a488b3",
    "36d88f72588e543c": "b41867e",
    "bc8040b6c97326c8": "9d8f604",
}
BEFORE_CODE = "9763796"  # of files that have no hash, which `fp8-errors` is none of


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def named(folder: str) -> list[str]:
    """List the files of a folder. Raises `LookupError` for one without a line in `FILES`, or a line without a file."""
    there = sorted(f"{folder}/{path.stem}" for path in (kept.RESULTS / folder).glob("*.json"))
    lines = [name for name in FILES if name.startswith(f"{folder}/")]
    if odd := set(there) ^ set(lines):
        raise LookupError(
            f"{', '.join(sorted(odd))}: FILES in scripts/results.py has a line for each file that is there"
        )
    return lines


def files(folder: str) -> str:
    rows = []
    for name in named(folder):
        found = file(name)
        code = found.get("code")
        own = found.get("commit") or "-dirty"
        commit = CODE.get(code or "") or ("" if own.endswith("-dirty") else own[:7])
        if code is None and "versions" in found:
            commit = BEFORE_CODE
        short = name.split("/")[1]
        rows.append((f"[`{short}`]({short}.json)", FILES[name], code or "none", commit))
    return table(("file", "of what", "`code`", "commit"), rows)


def fits(folder: str) -> str:
    """Tabulate what `ostinato bench fits` found."""
    head = ("file", "size", "engine", "depth", "s", "guidance", "card GB", "fits", "tensors GB", "device GB", "then")
    rows = [row for name in named(folder) if "cap_bytes" in file(name) for row in [_fitted(name)]]
    return table(head, rows) if rows else "Not measured yet."


def _fitted(name: str) -> tuple[str, ...]:
    found = file(name)
    case, parts = found["case"], found["parts"]
    longer = [f"{one['seconds']:g} s at depth {one['depth']}" for one in found["longer"] if one["fits"]]
    short = next((part["name"] for part in parts if "shortage" in part), "")
    return (
        f"`{name.split('/')[1]}`",
        found["size"],
        found["engine"],
        f"{case['depth']}",
        f"{case['seconds']:g}",
        case["cfg"],
        f"{found['gigabytes']:g}",
        "yes" if found["fits"] else f"no: {short}" if short else "no",
        f"{max(part['peak_bytes'] for part in parts) / 2**30:.2f}",
        f"{found['device_bytes'] / 2**30:.2f}",
        ", ".join(longer),
    )


def runs(folder: str) -> str:
    head = (
        "file",
        "size",
        "engine",
        "depth",
        "s",
        "guidance",
        "ms a tick",
        "p95",
        "floor",
        "x real time",
        "GB",
        "references",
    )
    return table(head, [row for name in named(folder) for row in _rows(name)])


def _rows(name: str) -> Iterator[tuple[str, ...]]:
    for one in file(name).get("results", ()):
        sessions = one.get("sessions", 1)
        yield (
            f"`{name.split('/')[1]}`",
            one["size"],
            one["engine"],
            f"{sessions} x {one['depth']}" if sessions > 1 else f"{one['depth']}",
            f"{one['seconds']:g}",
            one["cfg"] + (", all controls" if one.get("controls") else ""),
            f"{one['tick_ms']['median']:.2f}",
            f"{one['tick_ms']['p95']:.2f}",
            f"{one['floor_ms']:.2f}",
            f"{one['realtime']:.0f}",
            f"{one['peak_bytes'] / 1e9:.2f}",
            ", ".join(f"{kind} {other['ratio']:.2f} x" for kind, other in one["references"].items()),
        )


def cards(_: str) -> str:
    head, *rows = overview()
    return table(head, rows)


def pages() -> dict[Path, str]:
    """Return the text of every page, by its path."""
    tables = {name: Field(find) for name, find in (("files", files), ("runs", runs), ("fits", fits), ("cards", cards))}
    made = {}
    for name, place in PAGES.items():
        text = (TEMPLATES / f"{name}.md").read_text("utf-8").format_map(fields() | tables)
        text = re.sub(r"(?<=\d)%", " %", re.sub(r"[+-](?=0%)", "", text))  # as the pages write it
        if name == "readme":
            before, _, rest = (ROOT / place).read_text("utf-8").partition(MARKS[0])
            text = before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2]
        made[ROOT / place] = text
    return made


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8", newline="\n")
