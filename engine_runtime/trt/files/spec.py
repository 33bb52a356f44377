"""The request for a build: all settings of an engine in one value, which goes to the child process and the sidecar."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ...engines.profiles import Profile, parse_profiles
from ...errors import InputError, check_choice
from ...files import typed
from ...models.given import NOTHING, Given
from ...spec import ACE_STEP

FLAVORS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}  # command line's name -> the library's module
Kind = Literal["decoder", "vae_decoder", "vae_encoder"]
KINDS = get_args(Kind)
PRECISIONS = ("bf16", "fp32")
SIZES = ("2b",)  # random weights at a real size
# With fewer frames at most, a bf16 decoder of variable length fails inside TensorRT-RTX 1.7.1 at any width, window and
# batch: "Graph contains more than one op named", for the mask that its sliding layers share.
SHORTEST = 62
DEFAULT_PROFILE = {"batch": "1:4:16", "seconds": "2:10:60", "tokens": "16:128:512", "rank": "1:8:128"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class BuildSpec:
    """All settings of one build.

    Attributes:
        name: of the files NAME.plan and NAME.plan.json.
        flavor: the library's module, `tensorrt_rtx` or `tensorrt`.
        profiles: the shapes it takes.
        kind: `decoder`, `vae_decoder` or `vae_encoder`.
        model: a name that `models.loading.load` takes; exactly one of `model`, `size` and `onnx` is given.
        size: one of `SIZES`: random weights at that size, to measure with.
        precision: `bf16` or `fp32`; a VAE is fp32, because TensorRT builds no bf16 transposed convolution.
        lora: with inputs for low-rank adapters.
        refittable: weights can be exchanged in place; TensorRT-RTX needs a GPU to build that.
        tf32: whether fp32 products may be rounded to TF32.
        onnx: absolute path of a graph exported before.
        keep_onnx: leave the exported graph beside the engine.
        given: what of the model was given beside its name.

    Raises:
        InputError: for settings that do not go together.
    """

    name: str
    flavor: str
    profiles: tuple[Profile, ...]
    kind: str = "decoder"
    model: str | None = None
    size: str | None = None
    precision: str = "bf16"
    lora: bool = False
    refittable: bool = False
    tf32: bool = False
    onnx: str | None = None
    keep_onnx: bool = False
    given: Given = NOTHING

    def __post_init__(self) -> None:
        check_name(self.name)
        check_choice("the flavor", self.flavor, tuple(FLAVORS.values()))
        check_choice("the kind", self.kind, KINDS)
        check_choice("the precision", self.precision, PRECISIONS)
        if sum(source is not None for source in (self.model, self.size, self.onnx)) != 1:
            raise InputError(
                "no single source of weights is given", "it is a model, a size or an exported graph", "give one of them"
            )
        try:
            f"{self.model}{self.onnx}".encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the path {self.model or self.onnx} is no UTF-8", "the engine's sidecar must name it", "rename it"
            ) from error
        if self.size is not None:
            check_choice("the size", self.size, SIZES)
        if not self.profiles:
            raise InputError("no profile is given", "an engine has at least one", "give batch, seconds and tokens")
        if self.kind != "decoder":
            self._check_vae()
        for profile in self.profiles:
            self._check_profile(profile)

    def _check_vae(self) -> None:
        if self.precision != "fp32":
            raise InputError(
                f"the precision of the {self.kind} is {self.precision}",
                "TensorRT builds the VAE's transposed convolutions in fp32 only",
                "use fp32",
            )
        if self.lora or self.refittable:
            raise InputError(
                f"adapters or refitting are asked of the {self.kind}", "only the decoder takes them", "leave them out"
            )

    def _check_profile(self, profile: Profile) -> None:
        decoder = self.kind == "decoder"
        if (profile.tokens is not None) != decoder:
            raise InputError(
                f"tokens are {profile.tokens or 'not given'}", "a decoder has them, a VAE has not", "check the profile"
            )
        if (profile.rank is not None) != self.lora:
            raise InputError(
                f"the rank is {profile.rank or 'not given'}",
                "an engine with LoRA inputs has a span of ranks, and no other has",
                "give both or neither",
            )
        odd = [n for n in profile.frames.as_list() if n % ACE_STEP.patch]
        if decoder and odd:
            raise InputError(f"the frames are {odd[0]}", "the decoder takes even counts", "round up to the next one")

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> BuildSpec:
        """Rebuild the spec from `as_json`. Raises `InputError` for anything else."""
        return typed(data, "what is to be built", cls)

    def command(self, folder: Path | None = None) -> str:
        """Return the exact command that builds this again."""
        words = ["ostinato", "build", "--name", self.name, "--what", self.kind.replace("_", "-")]
        for option in ("model", "size", "onnx"):
            if (value := getattr(self, option)) is not None:
                words += [f"--{option}", value]
        words += [
            word for name, value in self.given.named().items() for word in (f"--model-{name.replace('_', '-')}", value)
        ]
        words += ["--flavor", next(short for short, module in FLAVORS.items() if module == self.flavor)]
        words += ["--precision", self.precision]
        words += ["--batch", _spans(self, "batch"), "--seconds", _spans(self, "frames")]
        if self.kind == "decoder":
            words += ["--tokens", _spans(self, "tokens")]
        if self.lora:
            words += ["--lora", "--rank", _spans(self, "rank")]
        words += [f"--{o.replace('_', '-')}" for o in ("refittable", "tf32", "keep_onnx") if getattr(self, o)]
        words += ["--engines", str(folder)] if folder is not None else []
        return shlex.join(words)


def _spans(spec: BuildSpec, name: str) -> str:
    spans = [getattr(profile, name) for profile in spec.profiles]
    if name == "frames":
        return ",".join(":".join(f"{n / 25:g}" for n in span.as_list()) for span in spans)
    return ",".join(str(span) for span in spans)


def is_name(name: str) -> bool:
    """Return whether a text can be an engine's name: a valid file name on any system, without a path."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and not name.endswith((".", ".plan"))


def check_name(name: str) -> None:
    """Raise `InputError` unless `is_name`."""
    if not is_name(name):
        raise InputError(
            f"the engine's name is {name!r}", "letters, digits, dot, dash and underscore are allowed", "choose another"
        )


def make_spec(
    flavor: str,
    kind: str,
    source: Mapping[str, Any],
    texts: Mapping[str, str | None],
    name: str | None = None,
    precision: str | None = None,
    **switches: Any,
) -> BuildSpec:
    """Make a spec from a user's settings.

    Args:
        flavor: `rtx` or `tensorrt`.
        kind: one of `KINDS`.
        source: one of `model`, `size`, `onnx`.
        texts: `batch`, `seconds`, `tokens`, `rank` as MIN:OPT:MAX; None takes `DEFAULT_PROFILE`.
        name, precision: None chooses by the other settings.
        switches: `lora`, `refittable`, `tf32`, `keep_onnx`, `given`.

    Raises:
        InputError: for settings that do not exist or do not go together.
    """
    check_choice("the flavor", flavor, tuple(FLAVORS))
    check_choice("the kind", kind, KINDS)
    decoder, lora = kind == "decoder", switches.get("lora", False)
    for option, used in (("tokens", decoder), ("rank", lora)):
        if texts.get(option) is not None and not used:
            raise InputError(
                f"{option} is {texts[option]!r}",
                "only a decoder has tokens, and only one with --lora a rank",
                f"leave out --{option}",
            )
    filled = {k: texts.get(k) or text for k, text in DEFAULT_PROFILE.items()}
    profiles = parse_profiles(
        filled["batch"],
        filled["seconds"],
        filled["tokens"] if decoder else None,
        filled["rank"] if lora else None,
        ACE_STEP.patch if decoder else 1,
    )
    precision = precision or ("bf16" if decoder else "fp32")
    if decoder and flavor == "rtx" and precision == "bf16":
        _check_frames(profiles)
    spec = BuildSpec("unnamed", FLAVORS[flavor], profiles, kind, precision=precision, **source, **switches)
    return replace(spec, name=name if name is not None else _default_name(spec, flavor))


def _check_frames(profiles: Sequence[Profile]) -> None:
    for span in (profile.frames for profile in profiles):
        if span.min < span.max < SHORTEST:
            raise InputError(
                f"the longest of the seconds is {ACE_STEP.seconds(span.max):g}",
                f"TensorRT-RTX builds a bf16 decoder whose longest is {ACE_STEP.seconds(SHORTEST):g} or more, or "
                "that is always as long",
                "raise it, or give one number in place of minimum:optimum:maximum",
            )


def _default_name(spec: BuildSpec, flavor: str) -> str:
    source = spec.size or Path((spec.model or spec.onnx or "").rstrip("/\\")).name.removesuffix(".onnx")
    words = [Path(source).stem if source.endswith(".safetensors") else source, spec.kind, spec.precision, flavor]
    words += [word for word in ("lora", "refittable", "tf32") if getattr(spec, word)]
    text = re.sub(r"[^\w.]+", "-", "-".join(w.replace("_", "-") for w in words), flags=re.ASCII)
    sizes = hashlib.sha256("; ".join(map(str, spec.profiles)).encode()).hexdigest()[:6]
    return f"{text.strip('-.')[:90]}-{sizes}"
