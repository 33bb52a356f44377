"""LoRA files of random numbers, for the tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from ostinato.engine_runtime.engines.factors import KINDS, PLACES, Targets
from ostinato.engine_runtime.lora.adapter import Adapter
from safetensors.torch import save_file
from torch import Tensor

# where ACE-Step's own model has each kind
THEIRS = {
    **{f"{a}_{x}": f"{word}.{x}_proj" for a, word in (("self", "self_attn"), ("cross", "cross_attn")) for x in "qkvo"},
    **{x: f"mlp.{x}_proj" for x in ("gate", "up", "down")},
}
_files = itertools.count()


def dotted(
    prefix: str, down: str = ".lora_A.weight", up: str = ".lora_B.weight", theirs: bool = True
) -> Callable[[int, str, str], str]:
    """Names such as `PREFIXlayers.0.mlp.up_proj.lora_A.weight`, by ACE-Step's words or diffusers'."""

    def name(layer: int, kind: str, side: str) -> str:
        path = f"layers.{layer}.{THEIRS[kind] if theirs else PLACES[kind]}"
        return prefix + path + {"a": down, "b": up, "alpha": ".alpha"}[side]

    return name


def flat(prefix: str, theirs: bool = True) -> Callable[[int, str, str], str]:
    """kohya's: `PREFIXlayers_0_mlp_up_proj.lora_down.weight`."""

    def name(layer: int, kind: str, side: str) -> str:
        path = f"layers.{layer}.{THEIRS[kind] if theirs else PLACES[kind]}".replace(".", "_")
        return prefix + path + {"a": ".lora_down.weight", "b": ".lora_up.weight", "alpha": ".alpha"}[side]

    return name


PEFT = dotted("base_model.model.")


def tensors_of(
    targets: Targets,
    rank: int,
    seed: int = 0,
    kinds: Iterable[str] = KINDS,
    layers: Iterable[int] | None = None,
    name: Callable[[int, str, str], str] = PEFT,
    alpha: float | None = None,
) -> dict[str, Tensor]:
    """The same numbers whatever the names; strong enough to be heard."""
    generator, made = torch.Generator().manual_seed(1000 + seed), {}
    for layer in range(targets.layers) if layers is None else layers:
        for kind in kinds:
            width_in, width_out = targets.kinds[kind]
            made[name(layer, kind, "a")] = torch.randn(rank, width_in, generator=generator) / width_in**0.5
            made[name(layer, kind, "b")] = torch.randn(width_out, rank, generator=generator) * 0.4 / rank**0.5
            if alpha is not None:
                made[name(layer, kind, "alpha")] = torch.tensor(alpha)
    return made


def lokr_of(
    targets: Targets,
    factor: int = 8,
    seed: int = 0,
    prefix: str = "lycoris_",
    kinds: Iterable[str] = KINDS,
    ranks: tuple[int | None, int | None] = (None, None),
    alpha: float | None = None,
) -> dict[str, Tensor]:
    """A LoKr as LyCORIS names it (flat) or, with a prefix that ends in a dot, PEFT: W1 `[factor, factor]`; each of the
    two matrices whole, or as a product of this rank.
    """
    generator, made = torch.Generator().manual_seed(2000 + seed), {}
    for layer in range(targets.layers):
        for kind in kinds:
            width_in, width_out = targets.kinds[kind]
            path = f"layers.{layer}.{THEIRS[kind]}"
            path = prefix + (path if prefix.endswith(".") else path.replace(".", "_"))
            sizes = {"w1": (factor, factor), "w2": (width_out // factor, width_in // factor)}
            for (side, (rows, columns)), rank in zip(sizes.items(), ranks, strict=True):
                scale = 0.5 * (rows * columns) ** -0.25
                if rank is None:
                    made[f"{path}.lokr_{side}"] = torch.randn(rows, columns, generator=generator) * scale
                else:
                    made[f"{path}.lokr_{side}_a"] = torch.randn(rows, rank, generator=generator) * scale
                    made[f"{path}.lokr_{side}_b"] = torch.randn(rank, columns, generator=generator) * scale / rank**0.5
            if alpha is not None:
                made[f"{path}.alpha"] = torch.tensor(alpha)
    return made


def written(path: Path, targets: Targets, rank: int, **options) -> Path:
    save_file(tensors_of(targets, rank, **options), path)
    return path


def made_adapter(folder: Path, targets: Targets, rank: int, **options) -> Adapter:
    return Adapter.read(written(folder / f"adapter-{next(_files)}.safetensors", targets, rank, **options), targets)
