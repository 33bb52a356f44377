"""Reads what is written of an adapter: its alpha, which PEFT writes beside the file and diffusers in its header."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..errors import InputError, ModelError
from ..files import parse_json, read_bytes, typed

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIFFUSERS_METADATA = "lora_adapter_metadata"  # diffusers' entry in the header of the files it saves
MAX_CONFIG = 1 << 20  # bytes; PEFT's has about a thousand
MAX_ALPHA = 1e6  # either way; trainers take up to some times the rank
Alpha = Annotated[float, msgspec.Meta(ge=-MAX_ALPHA, le=MAX_ALPHA)]
# Ways to begin, by PEFT's names, of which the base model's weights are changed too: without that the factors are wrong.
_BASE_CHANGED = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "loftq": "LoftQ",
    "lora_ga": "LoRA-GA",
}
_WRAPPED = ("", "base_model.model.", "transformer.")  # what stands before the name that a layer has in its model
_PATTERN = re.compile(r"(\^|\.\*\\?\.)?((?:[\w-]|\\?\.)+)\$?")


@dataclass(frozen=True)
class Scaling:
    """The scaling that a config gives an adapter.

    Attributes:
        lora_alpha: of all layers; None is each one's rank.
        alpha: a LoKr's, by PEFT's name.
        alpha_pattern: of the layers whose names end so, or are so from a leading `^` on; the first that fits counts.
            PEFT takes regular expressions: one that is more than this is refused, for it may run for ever.
        use_rslora: alpha is over the square root of the rank, not over the rank.
        use_dora: it is no plain LoRA.
        init_lora_weights: how training began; some ways change the base model's weights.
        r: the rank of most layers.
    """

    lora_alpha: Alpha | None = None
    alpha: Alpha | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str | None = None
    r: int | None = None

    @property
    def changes_base(self) -> str | None:
        """Name the way of training that changed the base model's weights, which the file does not hold."""
        begun = str(self.init_lora_weights).lower()
        return next((name for word, name in _BASE_CHANGED.items() if begun.startswith(word)), None)

    @property
    def told(self) -> bool:
        """Return whether it has an alpha."""
        return self.lora_alpha is not None or self.alpha is not None

    def scale(self, path: str, rank: int | None) -> float:
        """Return the scale of a layer, given its name in the file and its rank, None for the config's. Raises
        `InputError` for a pattern that is not supported."""
        rank = rank or self.r or 1
        words = path.split(".")
        names = [".".join(words[i:]) for i in range(len(words))]
        names += ["^" + path.removeprefix(prefix) for prefix in _WRAPPED]
        default = next((alpha for alpha in (self.lora_alpha, self.alpha) if alpha is not None), rank)
        _, alpha = min((self.ends[name] for name in names if name in self.ends), default=(0, default))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    @cached_property
    def ends(self) -> dict[str, tuple[int, float]]:
        """Map each pattern, without escapes, to its position and alpha. Raises `InputError` for one that is not
        supported."""
        ends: dict[str, tuple[int, float]] = {}
        for place, (pattern, alpha) in enumerate((self.alpha_pattern or {}).items()):
            if (found := _PATTERN.fullmatch(pattern)) is None:
                raise InputError(
                    f"its alpha_pattern has {pattern!r}",
                    "a pattern is the end of layers' names, or ^ and a whole name",
                    "write each layer's name",
                )
            ends.setdefault("^" * (found[1] == "^") + found[2].replace("\\", ""), (place, alpha))
        return ends


def read_scaling(path: Path, metadata: Mapping[str, str], ranks: Collection[int]) -> Scaling:
    """Read what PEFT wrote of an adapter, in its file's header or beside it; with neither alpha is the rank.

    A config beside a file of another name than PEFT's is its own if no other adapter lies there and the ranks agree.

    Args:
        ranks: of the file's layers.

    Raises:
        ModelError: for what cannot be understood, for a DoRA, and for one that changed the base model.
    """
    try:
        found = parse_json(_text(path, metadata), "it", dict[str, Any])
        scaling = typed({key.removeprefix("transformer."): value for key, value in found.items()}, "it", Scaling)
        _ = scaling.ends
    except (OSError, InputError) as error:
        raise ModelError(
            f"what is written of {path.name} cannot be used: {getattr(error, 'given', error)}",
            f"{getattr(error, 'allowed', 'a file')}, in {PEFT_CONFIG} or the entry {DIFFUSERS_METADATA}",
            "correct it, or fetch the adapter again",
        ) from error
    if scaling.use_dora:
        raise ModelError(
            f"{path.name} is a DoRA by its config", "only plain LoRA can be played as it is", "choose a LoRA"
        )
    if scaling.changes_base:
        raise ModelError(
            f"{path.name} is a {scaling.changes_base} by its config (init_lora_weights {scaling.init_lora_weights!r})",
            "its training changed the base model's weights too, and the file holds only the rest",
            "have it converted to a LoRA: PEFT's save_pretrained does, with path_initial_model_for_weight_conversion",
        )
    renamed = path.name != PEFT_FILE and DIFFUSERS_METADATA not in metadata
    return Scaling() if renamed and scaling.r is not None and scaling.r not in ranks else scaling


def _text(path: Path, metadata: Mapping[str, str]) -> bytes | str:
    if (text := metadata.get(DIFFUSERS_METADATA)) is not None:
        if len(text) > MAX_CONFIG:
            raise InputError(f"it has {len(text)} characters", f"at most {MAX_CONFIG} are read", "check the file")
        return text
    beside = path.with_name(PEFT_CONFIG)
    own = path.name == PEFT_FILE or [file.name for file in path.parent.glob("*.safetensors")] == [path.name]
    return read_bytes(beside, MAX_CONFIG) if own and os.path.lexists(beside) else "{}"
