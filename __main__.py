"""The command where nothing was installed but the requirements: `python -m ostinato`, or `python FOLDER` of a clone.

A clone lies in ComfyUI's `custom_nodes` under any name, and is no package that another program could import.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

NAME = "ostinato"


def main() -> None:
    """Run the command line; the folder that this lies in is imported as the package `ostinato`."""
    home = Path(__file__).resolve().parent
    if not __package__:
        # Python put the folder itself first, where its modules would shadow others.
        sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != home]
        spec = importlib.util.spec_from_file_location(
            NAME, home / "__init__.py", submodule_search_locations=[str(home)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = package
        spec.loader.exec_module(package)
    importlib.import_module(f"{__package__ or NAME}.cli.main").main()


if __name__ == "__main__":
    main()
