"""One table between the tensor names of ACE-Step 1.5 checkpoints and those of our parts.

*Their* names are those of ComfyUI's all-in-one file: `model.diffusion_model.`, `vae.` and `text_encoders.` prefixes.
*Ours* are a part's parameter names in diffusers and transformers. No tensor is touched here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..errors import ModelError

Shape = tuple[int, ...]
PARTS = ("vae", "transformer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer", "text_encoder")
DIFFUSION, VAE, TEXT = "model.diffusion_model.", "vae.", "text_encoders.qwen3_06b.transformer.model."

# their prefix, part, our prefix
_PLACES = (
    (DIFFUSION + "null_condition_emb", "condition_encoder", "null_condition_emb"),
    (DIFFUSION + "decoder.", "transformer", ""),
    (DIFFUSION + "encoder.", "condition_encoder", ""),
    (DIFFUSION + "tokenizer.", "audio_tokenizer", ""),
    (DIFFUSION + "detokenizer.", "audio_token_detokenizer", ""),
    (VAE, "vae", ""),
    (TEXT, "text_encoder", ""),
)
# their words, ours; whole dotted words only
_ATTENTION = (
    ("q_proj", "to_q"),
    ("k_proj", "to_k"),
    ("v_proj", "to_v"),
    ("o_proj", "to_out.0"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
)
_PATCHES = (("proj_in.1", "proj_in_conv"), ("proj_out.1", "proj_out_conv"))
_RENAMES = {
    "transformer": _ATTENTION + _PATCHES,
    "condition_encoder": _ATTENTION,
    "audio_tokenizer": _ATTENTION,
    "audio_token_detokenizer": _ATTENTION,
    "vae": (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")),
    "text_encoder": (),
}
_UNIT = ("snake1", "conv1", "snake2", "conv2")
_BLOCK = {
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
}
NOT_STORED = {"condition_encoder": ("silence_latent",)}  # ours, and in none of their files
# Theirs, and no parameter of ours: the language models that write audio codes, the text wrapper's own scale, and
# caches that are computed again.
_DROPPED = re.compile(
    r"text_encoders\.qwen3_[24]b\..+|text_encoders\.qwen3_06b\.logit_scale"
    r"|.+\.rotary_emb\.(inv_freq|cos_cached|sin_cached)"
    r"|.+\.tokenizer\.quantizer\.(.+\.)?(_levels|_basis|implicit_codebook|scales|soft_clamp_input_value)"
)
_QUANTISED = re.compile(
    r"(.+\.)?(scaled_fp8|comfy_quant|weight_scale|weight_scale_2|scale_weight|input_scale|scale_input"
    r"|absmax|quant_map|quant_state.*|qweight|qzeros)"
)


def canonical(name: str, role: str) -> str:
    """Return a checkpoint's tensor name as the all-in-one file has it, with old weight norm names made parametrized
    ones.

    Args:
        role: what the file was given as: diffusion, vae or text_encoder.
    """
    if not name.startswith((DIFFUSION, VAE, "text_encoders.")):
        if role == "diffusion":
            name = DIFFUSION + name.removeprefix("diffusion_model.")
        elif role == "vae":
            name = VAE + name
        else:
            name = "text_encoders." + name if name.startswith("qwen3_") else TEXT + name.removeprefix("model.")
    if name.startswith(VAE):
        for theirs, old in _RENAMES["vae"]:
            name = _replace(name, old, theirs)
    return name


def to_ours(name: str, blocks: int = 5) -> tuple[str, str] | None:
    """Return part and our name for a checkpoint's name, or None where we have no such parameter.

    Args:
        name: from `canonical`.
        blocks: number of the VAE's blocks: its last layers are numbered after them.
    """
    if dropped(name):
        return None
    for theirs, part, ours in _PLACES:
        if name.startswith(theirs) and (not ours or name == theirs):
            rest = ours + name[len(theirs) :]
            for old, new in _RENAMES[part]:
                rest = _replace(rest, old, new)
            return part, _vae_to_ours(rest, blocks) if part == "vae" else rest
    return None


def to_theirs(part: str, name: str, blocks: int = 5) -> str:
    """Invert `to_ours`."""
    rest = _vae_to_theirs(name, blocks) if part == "vae" else name
    for old, new in _RENAMES[part]:
        rest = _replace(rest, new, old)
    for theirs, place, ours in _PLACES:
        if place == part and (not ours or rest == ours):
            return theirs + rest[len(ours) :]
    raise ValueError(f"{part} is no part")


def patch_key(part: str, name: str) -> str:
    """Return the key under which ComfyUI's model patcher holds the LoRA patches of one of our parameters."""
    return to_theirs(part, name).removeprefix("model.")


def plan(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Map `{part: {our name: their name}}`, without names that we have no parameter for; `check` reports those left
    over."""
    names = list(names)
    blocks, found = count_blocks(names), {part: dict[str, str]() for part in PARTS}
    for name in names:
        if (place := to_ours(name, blocks)) is not None:
            found[place[0]][place[1]] = name
    return found


def count_blocks(names: Iterable[str]) -> int:
    """Blocks of the VAE whose names these are: its encoder has one layer before them and two after."""
    layers = [int(m[1]) for name in names if (m := re.match(r"vae\.encoder\.layers\.(\d{1,3})\.", name))]
    return max(max(layers) - 2, 0) if layers else 5


def dropped(name: str) -> bool:
    """Return whether a known name of theirs is no parameter of ours; it may be in the file, and is not read."""
    return _DROPPED.fullmatch(name) is not None


def quantised(name: str) -> bool:
    """Return whether only a quantised checkpoint has such a name."""
    return _QUANTISED.fullmatch(name) is not None


def our_shape(part: str, name: str, shape: Shape) -> Shape:
    """Convert their shape to ours: the VAE's Snake parameters are `[C]` there and `[1, C, 1]` here."""
    if part == "vae" and name.endswith((".alpha", ".beta")) and len(shape) == 1:
        return (1, *shape, 1)
    return shape


def check(expected: Mapping[str, Shape], given: Mapping[str, Shape], source: str) -> None:
    """Raise one `ModelError` with the missing, the left-over and the wrongly shaped names, a few of each."""
    wrong = [f"{n} {list(given[n])} instead of {list(s)}" for n, s in expected.items() if n in given and given[n] != s]
    kinds = {
        "missing": sorted(expected.keys() - given.keys()),
        "left over": sorted(given.keys() - expected.keys()),
        "of the wrong shape": sorted(wrong),
    }
    if any(kinds.values()):
        counts = [f"{len(found)} {what} ({_few(found)})" for what, found in kinds.items() if found]
        raise ModelError(
            f"{source} has tensors {', '.join(counts)}",
            "every tensor of an ACE-Step 1.5 model must be there, in its shape, and no other",
            "choose an ACE-Step 1.5 checkpoint, or fetch it again",
        )


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _replace(name: str, old: str, new: str) -> str:
    return f".{name}.".replace(f".{old}.", f".{new}.")[1:-1]


def _vae_to_ours(name: str, blocks: int) -> str:
    match = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
    if match is None:
        return name
    side, layer, rest = match[1], int(match[2]), match[3]
    outer = {0: "conv1", blocks + 1: "snake1", blocks + 2: "conv2"}
    if layer in outer:
        return f"{side}.{outer[layer]}.{rest}"
    if not (inner := re.fullmatch(r"layers\.([0-4])\.(.+)", rest)):
        return name
    word, rest = _BLOCK[side][int(inner[1])], inner[2]
    if word.startswith("res_unit") and (unit := re.fullmatch(r"layers\.([0-3])\.(.+)", rest)):
        rest = f"{_UNIT[int(unit[1])]}.{unit[2]}"
    return f"{side}.block.{layer - 1}.{word}.{rest}"


def _vae_to_theirs(name: str, blocks: int) -> str:
    side, word, *rest = name.split(".")
    if word != "block":
        layer = {"conv1": 0, "snake1": blocks + 1, "conv2": blocks + 2}.get(word)
        return name if layer is None else ".".join((side, "layers", str(layer), *rest))
    layer, word, rest = int(rest[0]) + 1, rest[1], rest[2:]
    if word.startswith("res_unit"):
        rest = ["layers", str(_UNIT.index(rest[0])), *rest[1:]]
    return ".".join((side, "layers", str(layer), "layers", str(_BLOCK[side].index(word)), *rest))
