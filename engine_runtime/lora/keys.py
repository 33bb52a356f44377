"""Maps tensor names of LoRA files to layers and factors, in the styles that ACE-Step 1.5 files use.

Styles seen: PEFT's (ACE-Step's own trainer), diffusers', ComfyUI's and kohya's (flat names).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..engines.factors import Targets
from ..errors import ModelError
from ..models.names import DIFFUSION, to_theirs

Place = tuple[int, str]  # layer, kind

_DECODER = DIFFUSION + "decoder."
_DOTTED = (
    "",
    "transformer.",
    "decoder.",
    "diffusion_model.decoder.",
    _DECODER,
    "base_model.model.",
    "base_model.model.decoder.",
    "base_model.model.transformer.",
)
_FLAT = ("lora_unet_decoder_", "lora_unet_", "lora_transformer_", "lycoris_decoder_", "lycoris_")
# The same two factors have had many names; PEFT may put the adapter's own name behind them.
_DOWN = r"\.lora_down|_lora\.down|\.lora_A|\.lora\.down|\.lora_linear_layer\.down"
_UP = r"\.lora_up|_lora\.up|\.lora_B|\.lora\.up|\.lora_linear_layer\.up"
_SIDES = {
    "a": re.compile(rf"(.+?)(?:{_DOWN})(?:\.(?!bias$)\w+?)?(?:\.weight)?"),
    "b": re.compile(rf"(.+?)(?:{_UP})(?:\.(?!bias$)\w+?)?(?:\.weight)?"),
    "alpha": re.compile(r"(.+)\.alpha"),
    # LoKr's (LyCORIS, arXiv 2309.14859): each of its two matrices whole, or as a product
    **{side: re.compile(rf"(.+?)\.lokr_{side}(?:\.\w+)?") for side in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")},
}
_WHOLE = [
    {"a", "b"},
    *({*first, *second} for first in (("w1",), ("w1_a", "w1_b")) for second in (("w2",), ("w2_a", "w2_b"))),
]
_OTHERS = (
    ("DoRA", re.compile(r"\.dora_scale|\.lora_magnitude_vector\b|\.magnitude\b")),
    ("Tucker LoKr", re.compile(r"\.lokr_t2\b")),
    ("LoHa", re.compile(r"\.hada_")),
    ("OFT", re.compile(r"\.oft_|\.rescale$")),
    ("GLoRA", re.compile(r"\.[ab][12]\.weight$")),
    ("Tucker LoRA", re.compile(r"\.lora_mid\b")),
    ("VeRA", re.compile(r"vera_(A|B|lambda)")),
    ("whole weight differences", re.compile(r"\.(diff|diff_b|set_weight|reshape_weight|w_norm|b_norm)$")),
)


@dataclass
class Pair:
    """Names, in a file, of one layer's factors."""

    path: str
    found: dict[str, str] = field(default_factory=dict)  # the sides of `_SIDES`

    @property
    def is_kron(self) -> bool:
        return "a" not in self.found


def find(names: Iterable[str], targets: Targets, source: str) -> dict[Place, Pair]:
    """Map layers to the names of their factors.

    Args:
        names: of a file's tensors.
        targets: the layers of the model.
        source: the file's name, for errors.

    Raises:
        ModelError: for another kind of adapter, tensors that belong to no layer, and half a pair; each is named.
    """
    names = sorted(names)
    _refuse_others(names, source)
    paths, pairs, strange = _paths(targets), dict[Place, Pair](), list[str]()
    for name in names:
        placed = _place(name, paths)
        if placed is None:
            strange.append(name)
            continue
        place, path, side = placed
        pair = pairs.setdefault(place, Pair(path))
        if side in pair.found:  # two adapters in one file, or one layer by two names
            strange += [pair.found[side], name]
        pair.found[side] = name
    strange += [
        name for pair in pairs.values() if pair.found.keys() - {"alpha"} not in _WHOLE for name in pair.found.values()
    ]
    if strange or not pairs:
        found = f"has {len(strange)} tensors that are no whole pair of factors of the decoder ({_few(strange)})"
        found = found if strange else "holds no tensors"
        raise ModelError(
            f"{source} {found}",
            "what can be played is a LoRA or LoKr of the attention and the MLP of ACE-Step 1.5's decoder",
            "choose another file, or merge this one upstream with ComfyUI's own LoRA loader",
        )
    return pairs


def without_alpha(names: Iterable[str]) -> bool:
    """Return whether a file has factors of a layer and no alpha of it."""
    found: dict[str, set[str]] = {side: set() for side in _SIDES}
    for name in names:
        for side, pattern in _SIDES.items():
            if match := pattern.fullmatch(name):
                found[side].add(match[1])
    scaled = found["a"] | found["w1_b"] | found["w2_b"]  # a LoKr of two whole matrices has no alpha
    return bool(scaled - found["alpha"])


def _refuse_others(names: list[str], source: str) -> None:
    for kind, pattern in _OTHERS:
        if found := [name for name in names if pattern.search(name)]:
            raise ModelError(
                f"{source} holds {kind} ({_few(found)})",
                "only plain LoRA and LoKr, two factors for each layer, can be played as they are",
                "choose a LoRA, or merge this one upstream with ComfyUI's own LoRA loader",
            )


def _place(name: str, paths: dict[str, Place]) -> tuple[Place, str, str] | None:
    for side, pattern in _SIDES.items():
        match = pattern.fullmatch(name)
        if match is not None and match[1] in paths:
            return paths[match[1]], match[1], side
    return None


def _paths(targets: Targets) -> dict[str, Place]:
    """Map every name that a layer may have to its place: our names and theirs, dotted and flat, behind every prefix."""
    paths: dict[str, Place] = {}
    for layer in range(targets.layers):
        for kind in targets.kinds:
            ours = targets.parameter(layer, kind)
            for path in (ours, to_theirs("transformer", ours).removeprefix(_DECODER)):
                path = path.removesuffix(".weight")
                paths |= {prefix + path: (layer, kind) for prefix in _DOTTED}
                paths |= {prefix + path.replace(".", "_"): (layer, kind) for prefix in _FLAT}
    return paths


def _few(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
