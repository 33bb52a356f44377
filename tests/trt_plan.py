"""What a stand-in plan is made of: its sidecar, and tensors from raw addresses."""

from __future__ import annotations

import ctypes
import hashlib
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from ostinato.engine_runtime.engines.contract import Rows
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.factors import Factors, Targets
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.trt.files.sidecar import Sidecar
from ostinato.engine_runtime.trt.files.spec import BuildSpec
from torch import Tensor

HOP, LATENT_DIM = 1920, 64

OUTPUT: dict[str, Any] = {"name": "velocity", "dims": ["b", "2*t2", 64]}
PROFILE = Profile(Span(1, 4, 16), Span(2, 20, 40), Span(1, 64, 512))
LIBRARY = "10.13.3.9"


def memory(address: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The tensor that lies at an address."""
    count = torch.Size(shape).numel() * dtype.itemsize
    if device.type == "cuda":
        interface = {"shape": (count,), "typestr": "|u1", "data": (address, False), "version": 3}
        raw = torch.as_tensor(types.SimpleNamespace(__cuda_array_interface__=interface), device=device)
    else:
        raw = torch.frombuffer((ctypes.c_uint8 * count).from_address(address), dtype=torch.uint8)
    return raw.view(dtype).view(*shape)


def rows_of(bound: dict[str, Tensor], targets: Targets | None) -> Rows:
    """Inputs by name as rows; on the CPU the lengths are read from the mask, so that each row is decoded alone."""
    lora = {name: bound.pop(name) for name in list(bound) if name.startswith("lora_")}
    mask, batch = bound["encoder_attention_mask"], bound["timestep"].shape[0]
    lengths = np.ones(batch, dtype=np.int64) if mask.is_cuda else mask.sum(dim=1).numpy()
    rows = Rows(**bound, lengths=lengths, active=np.ones(batch, dtype=bool))
    if not lora or targets is None:
        return rows
    a, b = ({kind: lora[f"lora_{kind}_{side}"] for kind in targets.kinds} for side in "ab")
    rank = next(iter(a.values())).shape[1]
    return rows.adapted(Factors(targets, rank, a, b, frozenset(targets.kinds), False, (), (), ("bound",), None))


def describe(
    decoder: EagerEngine, profiles: tuple[Profile, ...], lora: bool, rtx: bool, label: str
) -> tuple[bytes, Sidecar]:
    """The bytes and the sidecar of a plan whose engine computes what an eager engine does."""
    kind = str(decoder.dtype).removeprefix("torch.")
    sizes: list[tuple[str, str, list[Any]]] = [
        ("hidden_states", kind, ["b", "2*t2", 64]),
        ("timestep", "float32", ["b"]),
        ("encoder_hidden_states", kind, ["b", "l", decoder.width]),
        ("encoder_attention_mask", "bool", ["b", "l"]),
        ("context_latents", kind, ["b", "2*t2", 128]),
    ]
    targets = decoder.targets if lora else None
    for name, (wide, out) in targets.kinds.items() if targets else ():
        sizes += [
            (f"lora_{name}_a", kind, [targets.layers, "r", wide]),
            (f"lora_{name}_b", kind, [targets.layers, out, "r"]),
        ]
    record = {"kind": "decoder", "lora": targets.as_record() if targets else None}
    data = f"{label} {decoder.identity} {profiles} {lora} {rtx}".encode()
    return data, _sidecar(data, record, sizes, (OUTPUT["name"], kind, OUTPUT["dims"]), profiles, rtx, lora)


class VaeHalf:
    """One half of an autoencoder, from bound tensors by name."""

    targets = None

    def __init__(self, vae: AutoencoderOobleck, kind: str) -> None:
        self.vae, self.kind, self.device = vae, kind, vae.device

    def __call__(self, bound: dict[str, Tensor]) -> Tensor:
        if self.kind == "vae_decoder":
            return self.vae.decode(bound["latents"]).sample
        return self.vae.encode(bound["audio"]).latent_dist.mean

    def shape(self, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Of the output, from the input's."""
        batch, _, length = shapes.get("latents" if self.kind == "vae_decoder" else "audio", (-1, -1, -1))
        return (batch, 2, length * HOP) if self.kind == "vae_decoder" else (batch, LATENT_DIM, length // HOP)


def describe_vae(half: VaeHalf, profiles: tuple[Profile, ...], rtx: bool, label: str) -> tuple[bytes, Sidecar]:
    """`describe` of a VAE's half."""
    latents, audio = ("latents", "float32", ["b", LATENT_DIM, "t"]), ("audio", "float32", ["b", 2, f"{HOP}*t"])
    first, last = (latents, audio) if half.kind == "vae_decoder" else (audio, latents)
    record = {"kind": half.kind, "lora": None, "config": dict(half.vae.config)}
    data = f"{label} {half.kind} {profiles} {rtx}".encode()
    return data, _sidecar(data, record, [first], last, profiles, rtx, False)


def _sidecar(
    data: bytes,
    record: dict[str, Any],
    inputs: Sequence[tuple[str, str, list[Any]]],
    output: tuple[str, str, list[Any]],
    profiles: tuple[Profile, ...],
    rtx: bool,
    lora: bool,
) -> Sidecar:
    """Whole but for the record's hashes, which are made up."""
    flavor, kind = "tensorrt_rtx" if rtx else "tensorrt", record["kind"]
    ports = [{"name": name, "dtype": dtype, "dims": dims} for name, dtype, dims in (*inputs, output)]
    modes = [*(["input"] * len(inputs)), "output"]
    record |= {"precision": "fp32", "inputs": ports[:-1], "outputs": ports[-1:]}
    record |= dict.fromkeys(("onnx_sha256", "weights", "recipe"), "0" * 64)
    return Sidecar(
        flavor=flavor,
        library=LIBRARY,
        bindings=LIBRARY,
        plan_sha256=hashlib.sha256(data).hexdigest(),
        plan_bytes=len(data),
        export=record,
        profiles=profiles,
        refittable=False,
        target={"compute_capabilities": [[8, 9]]} if rtx else {"sm": [9, 0], "device": "", "driver": "", "cuda": ""},
        flags={},
        io=tuple({"name": p["name"], "mode": mode, "dtype": p["dtype"]} for p, mode in zip(ports, modes, strict=True)),
        spec=BuildSpec("stand-in", flavor, profiles, kind, model="random", precision="fp32", lora=lora),
        random_weights=False,
        built="2026-01-01",
        seconds=1.0,
    )
