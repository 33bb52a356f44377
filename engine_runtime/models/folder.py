"""A pipeline from a folder in diffusers' format, none of whose files says which code runs.

No library is given the folder: its index is compared with the few classes there are, its configs are read as numbers
within bounds, and its weights are safetensors whose names and shapes are compared before memory is taken. So a folder
takes no more memory than its weights in the precision asked for. The scheduler's config is not read: the runtime has
its own schedule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepPipeline

from ..errors import InputError, ModelError
from ..files import read_json
from .names import PARTS, check
from .original import is_original, original
from .parts import CLASSES, OPTIONAL, assemble, checked_config, on_meta
from .quiet import reason
from .tokenizer import check_words, read_tokenizer
from .weights import FLOATS, Stored, fill, headers, restore_buffers

INDEX = "model_index.json"
MAX_JSON = 1 << 20  # bytes of an index or a config; they have about a thousand
_THEIRS = ("text_encoder", "tokenizer")  # of transformers
_KINDS = {  # the classes that each component may have in the index, and the libraries that may be named
    **{part: (kind.__name__,) for part, kind in CLASSES.items()},
    "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
}
_HOMES = dict.fromkeys(_KINDS, ("diffusers", "ace_step")) | dict.fromkeys(_THEIRS, ("transformers",))
_CHOOSE = "choose a model whose weights are plain safetensors"
_SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.safetensors")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".onnx", ".gguf")


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> AceStepPipeline:
    """Load a pipeline; the VAE is float32 unless `dtype` is bfloat16.

    Raises:
        ModelError: for a folder that is no ACE-Step 1.5 model, is not whole, or names anything else to run.
    """
    parts, stored = {}, {}
    with _refused(folder):
        there = _read_index(folder)
        words = read_tokenizer(folder / "tokenizer")
        for part in (part for part in PARTS if part in there):
            stored[part] = _stored(folder, part)
            where = f"{part}/config.json"
            config = checked_config(part, _read_object(folder / part / "config.json"), where)
            parts[part] = on_meta(part, config, where)
            expected = {name: tuple(tensor.shape) for name, tensor in parts[part].state_dict().items()}
            check(expected, {name: source.shape for name, source in stored[part].items()}, part)
        check_words(words, parts["text_encoder"])
        for part, module in parts.items():
            vae = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
            fill(module, stored[part], device, vae if part == "vae" else dtype)
            restore_buffers(module, device)
    return assemble(dict.fromkeys(OPTIONAL) | parts, words)


@contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Turn what reading a file raises into a `ModelError` that names the folder."""
    try:
        yield
    except (InputError, OSError) as error:
        raise ModelError(
            f"{folder} could not be loaded: {reason(error)}",
            "every part of an ACE-Step 1.5 pipeline must be there and whole",
            "fetch the model again",
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    return read_json(path, MAX_JSON, dict[str, Any])


def _read_index(folder: Path) -> set[str]:
    """Return the components that a folder has, each of a known class."""
    if not (folder / INDEX).exists() and is_original(folder):
        raise original(str(folder))
    try:
        index = _read_object(folder / INDEX)
    except (InputError, OSError) as error:
        raise ModelError(
            f"{folder} has no readable {INDEX}: {reason(error)}",
            "a model folder is one that diffusers saved",
            f"point to the folder that holds {INDEX}",
        ) from error
    if (name := index.get("_class_name")) != "AceStepPipeline":
        raise ModelError(f"{folder} holds a {name}", "an AceStepPipeline is needed", "choose an ACE-Step 1.5 model")
    there = set()
    for part, pair in index.items():
        if part.startswith("_") or (part in OPTIONAL and pair in (None, [None, None])):
            continue
        if pair not in [[library, kind] for library in _HOMES.get(part, ()) for kind in _KINDS[part]]:
            known = f"its {part} is {' or '.join(_KINDS[part])}" if part in _KINDS else f"it has {', '.join(_KINDS)}"
            raise ModelError(
                f"{folder} has {pair!r} as its {part}", f"in an ACE-Step 1.5 model {known}", "choose another model"
            )
        there.add(part)
    if missing := _KINDS.keys() - {*OPTIONAL, "scheduler"} - there:
        raise ModelError(
            f"the {INDEX} of {folder} lacks {', '.join(sorted(missing))}",
            f"an ACE-Step 1.5 model has {', '.join(_KINDS)}", "choose a whole model",
        )  # fmt: skip
    return there


def _stored(folder: Path, part: str) -> dict[str, Stored]:
    """Map our names of a part's tensors to where they are stored."""
    found: dict[str, Stored] = {}
    for path in _files(folder / part, "model" if part == "text_encoder" else "diffusion_pytorch_model"):
        for source in headers(path)[0]:
            # a causal language model's file serves too: its names have a prefix, and it has a head that is not used
            name = source.name.removeprefix("model.") if part == "text_encoder" else source.name
            if source.dtype not in FLOATS:
                raise InputError(f"{name} of {part} is {source.dtype}", f"allowed are {', '.join(FLOATS)}", _CHOOSE)
            if name in found:
                raise InputError(f"{part} has {name} twice", "each tensor is there once", _CHOOSE)
            if part != "text_encoder" or name != "lm_head.weight":
                found[name] = source
    return found


def _files(folder: Path, stem: str) -> list[Path]:
    """Return the file of a part's weights, or all its shards."""
    if (whole := folder / f"{stem}.safetensors").exists():
        return [whole]
    shards = {path: match for path in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(path.name))}
    shards = {path: match for path, match in shards.items() if path.name.startswith(f"{stem}-")}
    counts = {int(match[2]) for match in shards.values()}
    if counts and [int(match[1]) for match in shards.values()] == list(range(1, counts.pop() + 1)) and not counts:
        return list(shards)
    others = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in _OTHER_WEIGHTS]
    instead = f", but {others[0]}" if others else ""
    raise InputError(f"{folder.name} has no whole {whole.name}{instead}", "only safetensors are read", _CHOOSE)
