"""Starts a build process: `python child.py build` or `export`, with one task on stdin. See `build.worker`.

It is started by its path, and imports the folder it lies in as the package `ostinato`: ComfyUI imports the pack under
another name, made from a path, which no other process could import.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def main() -> int:
    here = Path(__file__).resolve()
    # the script's own folder comes first on the path, where its modules would shadow others
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != here.parent]
    root = here.parents[3]
    spec = importlib.util.spec_from_file_location(
        "ostinato", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} is no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules["ostinato"] = package
    spec.loader.exec_module(package)
    return importlib.import_module("ostinato.engine_runtime.trt.build.worker").run(sys.argv[1])


if __name__ == "__main__":
    raise SystemExit(main())
