"""Finds files in ComfyUI's model folders; on the command line, in those below `COMFYUI_PATH` or `~/ComfyUI`."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine_runtime.constants import PRESETS
from ...engine_runtime.errors import EngineBuildError, InputError, OstinatoError, plain
from ...engine_runtime.files import write_whole
from ...engine_runtime.lora.scaling import PEFT_FILE
from ...engine_runtime.trt.files.spec import FLAVORS, is_name
from .comfy import HEADLESS

if TYPE_CHECKING:
    from ...engine_runtime.trt.files.sidecar import Expect
    from ...engine_runtime.trt.health.state import Health

log = logging.getLogger(__name__)
EXAMPLE = Path(__file__).parents[2] / "example_workflows" / "ostinato_source.flac"
ENGINES, LORAS = "ostinato_engines", "loras"
MAX_LISTED = 50  # engines listed in a tooltip
MODELS = ("diffusers", "checkpoints", "diffusion_models")
AUTO = "auto"  # the choice that leaves it to the model's own files
PARTS = {"vae": ("vae", "checkpoints"), "text_encoder": ("text_encoders", "clip", "checkpoints")}  # and their folders
MODELS_SETTING = "OSTINATO_MODELS"  # environment variable: further folders of models, separated as in PATH
FOR = {"decoder": "", "vae_decoder": " (for Load VAE Engine)", "vae_encoder": " (a VAE encoder, which no node plays)"}
NOTHING = "none found"  # the only choice of a drop-down that would be empty


def register() -> None:
    """Register the pack's engine folders with ComfyUI: the one builds are written to, and `models/ostinato_engines`."""
    import folder_paths

    from ...engine_runtime.trt.files.folder import engines_home

    folder_paths.add_model_folder_path(ENGINES, str(engines_home().absolute()), is_default=True)
    folder_paths.add_model_folder_path(ENGINES, str(Path(folder_paths.models_dir) / ENGINES))
    folder_paths.folder_names_and_paths[ENGINES][1].add(".plan")
    # tokenizers lie in ComfyUI's own folder, where processes that are started from here look for them too
    os.environ.setdefault("COMFYUI_PATH", os.path.dirname(os.path.abspath(folder_paths.__file__)))


def put_example_clip() -> None:
    """Put the clip that the templates play into ComfyUI's input folder, where it is not there yet. Never raises: what
    that folder is like must not keep the nodes from loading.
    """
    import folder_paths

    try:
        place = Path(folder_paths.get_input_directory()) / EXAMPLE.name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, EXAMPLE.read_bytes())
    except (OSError, OstinatoError) as error:
        log.warning("the clip of the templates was not put into the input folder: %s", error)


def roots(kind: str) -> list[Path]:
    """Return the folders for one kind of file, in search order."""
    if not HEADLESS:
        import folder_paths

        return [Path(root) for root in folder_paths.get_folder_paths(kind)]
    comfyui = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI") / "models" / kind
    if kind != ENGINES:
        return [comfyui]
    from ...engine_runtime.trt.files.folder import engines_home

    return [engines_home().absolute(), comfyui]


def model_source(name: str) -> str:
    """Resolve a model's name to a path in the model folders; a preset or hub id is returned as it is.

    On the command line any path is accepted. In ComfyUI the name comes from anyone who can reach the server, so only
    files in the model folders are looked at, and the error does not tell whether any other path exists.

    Raises:
        InputError: in ComfyUI, for a name that is no preset, hub id or model in the folders.
    """
    from ...engine_runtime.models.loading import is_hub_id
    from ...engine_runtime.models.original import is_original

    name = name.strip()
    if name in PRESETS or (HEADLESS and os.path.exists(name)):
        return name
    more = [Path(os.path.expanduser(root)) for root in os.environ.get(MODELS_SETTING, "").split(os.pathsep) if root]
    for root in (os.path.abspath(root) for root in (*(root for kind in MODELS for root in roots(kind)), *more)):
        path = os.path.normpath(os.path.join(root, name))
        mark = path if path.endswith(".safetensors") else os.path.join(path, "model_index.json")
        if Path(path).is_relative_to(root) and (os.path.isfile(mark) or is_original(Path(path))):
            return path
    if HEADLESS or is_hub_id(name):
        return name
    raise InputError(
        f"no model {name!r} was found",
        f"there are {', '.join(PRESETS)}, hub ids, and what lies in ComfyUI's folders {', '.join(MODELS)}",
        f"put it there, or set {MODELS_SETTING} to its folder where ComfyUI is started",
    )


def engine_plans() -> list[Path]:
    """List the plan files in the engine folders, sorted by name, including engines that cannot play here."""
    from ...engine_runtime.trt.files.folder import plans

    found = {plan.stem: plan for root in reversed(roots(ENGINES)) for plan in plans(root)}
    return [found[name] for name in sorted(found)]


def engine_names() -> list[str]:
    """List the names of all engines, including those that cannot play here. Never raises, because schemas call it."""
    try:
        return [plan.stem for plan in engine_plans() if is_name(plan.stem)]
    except Exception:  # an unreadable folder must not make the nodes fail to load
        log.exception("the engines cannot be listed")
        return []


def describe(state: Health) -> str:
    """Describe an engine and its state in one line."""
    kind = "decoder" if state.sidecar is None else state.sidecar.export["kind"]
    return state.text() + FOR[kind]


def engine_states() -> str:
    """Describe the state of every engine for a tooltip; empty on the command line.

    The states come from files and installed packages; no TensorRT library is loaded, so the call is quick. Never
    raises.
    """
    try:
        return "" if HEADLESS else _describe_engines()
    except Exception as error:
        log.exception("the states of the engines cannot be told")
        return f"\nTheir states cannot be told: {plain(error)}"


def _describe_engines() -> str:
    from ...engine_runtime.trt.files.folder import data_home
    from ...engine_runtime.trt.files.sidecar import sidecar_path
    from ...engine_runtime.trt.files.trust import MANIFEST

    found = engine_plans()
    files = found[:MAX_LISTED]
    beside = [*map(sidecar_path, files), data_home() / MANIFEST]
    text = states_of(tuple(files), tuple(file_stamp(path) for path in (*files, *beside)))
    return text + (f"\nand {len(found) - len(files)} more" if found[MAX_LISTED:] else "")


@lru_cache(maxsize=1)
def states_of(plans: tuple[Path, ...], stamps: tuple[str, ...]) -> str:
    """Describe the engines. Cached until a file changes: ComfyUI asks for a node's schema many times a run."""
    from ...engine_runtime.trt.health.state import health, here
    from ...engine_runtime.trt.library.preflight import install, wheels

    known: dict[str, Expect | OstinatoError] = {}
    for flavor in FLAVORS.values() if plans else ():
        missing = EngineBuildError(f"{flavor} is not installed", "its engines need it", f"run: {install(flavor)}")
        known[flavor] = next((here(flavor, version) for version in wheels(flavor).values()), missing)
    return "".join(f"\n{describe(health(plan, known))}" for plan in plans)


def file_stamp(path: Path) -> str:
    """Return a text that changes when the file does; empty where the file is missing."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size}"


def weight_names(kind: str) -> list[str]:
    """List the safetensors files of a model folder, as paths relative to it. A schema calls it, so that it never
    raises.
    """
    try:
        if not HEADLESS:
            import folder_paths

            return [name for name in folder_paths.get_filename_list(kind) if name.endswith(".safetensors")]
        places = ((root, Path(at, name)) for root in roots(kind) for at, _, names in os.walk(root) for name in names)
        return sorted({file.relative_to(root).as_posix() for root, file in places if file.suffix == ".safetensors"})
    except Exception:  # whatever a folder does, it must not take the nodes away
        log.exception("the files in %s cannot be listed", kind)
        return []


def adapter_names() -> list[str]:
    """List the LoRA files."""
    return weight_names(LORAS)


def part_names(part: str) -> list[str]:
    """List the files that may hold a VAE or a text encoder, part being `vae` or `text_encoder`."""
    return list(dict.fromkeys(name for kind in PARTS[part] for name in weight_names(kind)))


def part_path(part: str, name: str) -> str | None:
    """Find the file of a part by its name in the model folders; None for `auto`.

    On the command line a path is accepted too. In ComfyUI it is not, as in `adapter_path`.

    Raises:
        InputError: where there is no such file.
    """
    if name == AUTO:
        return None
    places = [root / name for kind in PARTS[part] if HEADLESS or name in weight_names(kind) for root in roots(kind)]
    if HEADLESS:
        places.append(Path(os.path.expanduser(name)))
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        raise InputError(
            f"the {part.replace('_', ' ')} {name!r} was not found",
            f"it was looked for in ComfyUI's folders {', '.join(PARTS[part])}",
            f"put the file into models/{PARTS[part][0]}, or choose {AUTO}",
        )
    return str(found.absolute())


def adapter_path(name: str) -> Path:
    """Find a LoRA file by its name in the adapter folders; the name may also be that of the folder that PEFT wrote,
    and have another system's separators.

    On the command line a path is accepted too. In ComfyUI it is not: the name comes from anyone who can reach the
    server.

    Raises:
        InputError: where there is no such file.
    """
    spelled = dict.fromkeys((name, name.replace("\\", "/"), name.replace("/", "\\")))
    names = [one for text in spelled for one in (text, f"{text}/{PEFT_FILE}", f"{text}\\{PEFT_FILE}")]
    if not HEADLESS:
        names = [one for one in names if one in set(adapter_names())]
    places = [root / one for one in names for root in roots(LORAS)]
    if HEADLESS:
        places += [Path(os.path.expanduser(one)) for one in names]
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        raise InputError(
            f"the adapter {name!r} is not there",
            f"it was looked for in {', '.join(map(str, roots(LORAS)))}",
            "put the file there, or give its path" if HEADLESS else "put the file there",
        )
    return found
