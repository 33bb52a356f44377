"""Export a decoder of ACE-Step 1.5's 2B size, with random weights, and say what it took.

    python scripts/time_export.py FOLDER [--precision bf16|fp32] [--opset 23|20] [--lora]

Writes 3.2 GB (bf16) and needs some 5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from ostinato.engine_runtime.trt.export.export import export
from ostinato.engine_runtime.trt.export.record import ExportOptions
from ostinato.engine_runtime.trt.export.source import random_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--opset", type=int, choices=(20, 23), default=23)
    parser.add_argument("--lora", action="store_true")
    given = parser.parse_args()
    options = ExportOptions(given.precision, given.opset, given.lora)
    model = random_part("decoder", given.precision)
    start, steps = time.monotonic(), {}

    def told(what: str, share: float) -> None:
        steps.setdefault(what, round(time.monotonic() - start, 1))

    path = export("decoder", model, given.folder, options, progress=told)
    files = {file.name: file.stat().st_size for file in sorted(path.parent.glob(f"{path.name}*"))}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds since the model was there": steps, "bytes": files, "peak_bytes": peak}, indent=1))  # noqa: T201, its result


if __name__ == "__main__":
    main()
