"""Files in ComfyUI's model folders; on the command line those below `COMFYUI_PATH` or `~/ComfyUI`."""

from __future__ import annotations

import os
from pathlib import Path

from ..engine_runtime.errors import InputError
from .comfy import HEADLESS

ENGINES, LORAS = "ostinato_engines", "loras"
NOTHING = "none found"  # the only choice of a drop-down that would be empty


def register() -> None:
    """Tell ComfyUI of the pack's own model folder: where builds go, and `models/ostinato_engines`."""
    import folder_paths

    from ..engine_runtime.trt.folder import engines_home

    folder_paths.add_model_folder_path(ENGINES, str(engines_home().absolute()), is_default=True)
    folder_paths.add_model_folder_path(ENGINES, str(Path(folder_paths.models_dir) / ENGINES))
    folder_paths.folder_names_and_paths[ENGINES][1].add(".plan")


def roots(kind: str) -> list[Path]:
    """Where files of one kind are, the first place first."""
    if not HEADLESS:
        import folder_paths

        return [Path(root) for root in folder_paths.get_folder_paths(kind)]
    comfyui = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI") / "models" / kind
    if kind != ENGINES:
        return [comfyui]
    from ..engine_runtime.trt.folder import engines_home

    return [engines_home().absolute(), comfyui]


def engine_names() -> list[str]:
    """Names of the engines, whatever their state."""
    from ..engine_runtime.trt.folder import plans

    return sorted({plan.stem for root in roots(ENGINES) for plan in plans(root)})


def stamp(engine: str) -> str:
    """Changes when an engine's files do."""
    files = [root / f"{engine}.plan{end}" for root in roots(ENGINES) for end in ("", ".json")]
    return " ".join(f"{path.stat().st_mtime_ns}" for path in files if path.exists())


def adapter_names() -> list[str]:
    """Names of the adapter files, with their folders."""
    if not HEADLESS:
        import folder_paths

        return [name for name in folder_paths.get_filename_list(LORAS) if name.endswith(".safetensors")]
    found = {p.relative_to(root).as_posix() for root in roots(LORAS) for p in root.rglob("*.safetensors")}
    return sorted(found)


def adapter_path(name: str) -> Path:
    """The file of that name in the folders of adapters, or at that path.

    Raises:
        InputError: where there is none.
    """
    places = [root / name for root in roots(LORAS)] + [Path(name).expanduser()]
    found = next((place for place in places if name and place.exists()), None)
    if found is None:
        raise InputError(
            f"the adapter {name!r} is not there",
            f"it was looked for in {', '.join(map(str, roots(LORAS)))}",
            "put the file there, or give its path",
        )
    return found
