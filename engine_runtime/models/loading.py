"""From a name to a loaded model: a built-in preset, a local folder in diffusers' format, or a hub id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepPipeline
from safetensors import safe_open

from ..constants import HOP, KINDS, LATENT_DIM, ROWS, SAMPLE_RATE
from ..engines import EagerEngine
from ..engines.compiled.engine import CompiledEngine
from ..engines.eager import limits_of
from ..engines.kinds import make_engine
from ..errors import InputError, ModelError
from ..memory import guarded
from ..trt.profiles import Profile, Span
from ..trt.prove import prove
from .checkpoint import load_checkpoint
from .quiet import quiet
from .tiny import PRESETS, preset_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Progress = Callable[[int, int], None]  # bytes done, bytes in all
_PROVEN = Profile(Span(1, 2, 4), Span(26, 250, 750), Span(9, 64, 128))  # what an engine is checked at
_ROOM = ("the weights must fit beside what is loaded", "unload other models or use a smaller precision")

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded ACE-Step 1.5 pipeline, and what the runtime needs to know of it.

    Attributes:
        pipe: the diffusers pipeline that prepares conditions; its transformer is the engine's.
        turbo: guidance is distilled in; else a base or SFT model, with a null condition.
        identity: hash of the configs, and of the sizes and times of the weight files.
        ready: brings the weights to the device before they are used; a host that manages memory gives its own.
    """

    pipe: AceStepPipeline
    name: str
    turbo: bool
    identity: str
    ready: Callable[[], None] = lambda: None

    @property
    def device(self) -> torch.device:
        return self.pipe.transformer.device

    @property
    def source(self) -> str:
        """The name under which another process finds it: a path as an absolute one."""
        return str(Path(self.name).expanduser().absolute()) if _is_path(self.name) else self.name


def eager_engine(model: Model, max_rows: int = ROWS) -> EagerEngine:
    """The eager engine on this model's transformer.

    Args:
        model: the loaded pipeline.
        max_rows: rows it takes in one execute, which bounds the memory of a tick.
    """
    limits = limits_of(max_rows)
    model.ready()
    engine = EagerEngine(model.pipe.transformer, model.identity, limits, model.ready)
    engine.recipe = _recipe(model, engine, max_rows)
    return engine


def torch_engine(model: Model, kind: str = KINDS[0], max_rows: int = ROWS) -> EagerEngine | CompiledEngine:
    """An engine of a kind on this model's transformer. Any kind but eager has proven itself against eager.

    Args:
        model: the loaded pipeline.
        kind: one of `engines.kinds.KINDS`.
        max_rows: rows it takes in one execute.

    Raises:
        InputError: for another kind.
        EngineError: for what this machine lacks, or `Refused` with the figures of a check that failed.
        MemoryShortage: when the device has no room for it.
    """
    if kind == KINDS[0]:
        return eager_engine(model, max_rows)
    model.ready()
    with guarded(f"the {kind} engine found no room on {model.device}", *_ROOM):
        engine = make_engine(kind, model.pipe.transformer, model.identity, max_rows, model.ready)
        assert isinstance(engine, CompiledEngine)
        reference = EagerEngine(model.pipe.transformer, model.identity, engine.limits, model.ready)
        try:
            engine.proof = prove(engine, reference, _PROVEN, seed=0, products=engine.products).summary()
        finally:
            engine.rest()
    engine.recipe = _recipe(model, engine, max_rows) | {"kind": kind}
    return engine


def _recipe(model: Model, engine: EagerEngine | CompiledEngine, max_rows: int) -> dict[str, Any]:
    return {
        "model": model.source,
        "precision": str(engine.dtype).removeprefix("torch."),
        "device": engine.device.type,
        "max_rows": max_rows,
    }


def pick_device(choice: str) -> torch.device:
    """`auto` is the current CUDA device where there is one, else the CPU."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    if choice not in ("cpu", "cuda"):
        raise InputError(f"the device is {choice!r}", "allowed are auto, cpu and cuda", "choose one of them")
    if choice == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("the device is cuda", "this PyTorch sees no CUDA device", "use auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())


def pick_dtype(choice: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that computes in it, else float32."""
    if choice == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if choice not in DTYPES:
        raise InputError(f"the precision is {choice!r}", f"allowed are auto, {', '.join(DTYPES)}", "choose one")
    return DTYPES[choice]


def load(
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    download: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Load a model.

    Args:
        source: `tiny`, `tiny-base`, a folder with a `model_index.json`, a `.safetensors` checkpoint (single file, or
            the diffusion model of split files in ComfyUI's model folders), or a hub id `owner/name`.
        device, dtype: where the weights go and in what precision; the VAE is float32 unless `dtype` is bfloat16.
        download: whether a hub id may be fetched over the network; else only the local hub cache is used.
        progress: told the bytes of a download.

    Raises:
        InputError: for a name that is none of these.
        ModelError: for a folder that is not ACE-Step 1.5, or that lacks keys.
        MemoryShortage: when the device has no room.
    """
    source = source.strip()
    single = Path(source).suffix == ".safetensors"
    folder = Path(source).expanduser() if single else _folder(source, download, progress)
    with guarded(
        f"loading {source} found no room on {device}",
        *_ROOM,
    ):
        if single:
            with quiet():
                pipe = load_checkpoint(folder, device, dtype)
        else:
            _check_index(folder)
            pipe = _read(folder, dtype)
            _check_keys(pipe, folder)
            pipe.to(device)
    _check_format(pipe, source)
    config = pipe.transformer.config
    turbo = bool(getattr(config, "is_turbo", False)) or getattr(config, "model_version", None) == "turbo"
    pipe.set_progress_bar_config(disable=True)
    return Model(pipe, source, turbo, _identity(folder))


def _is_path(source: str) -> bool:
    return source not in PRESETS and Path(source).expanduser().exists()


def _folder(source: str, download: bool, progress: Progress | None) -> Path:
    if source in PRESETS:
        return preset_folder(source)
    try:
        path = Path(source).expanduser()
        taken = path.exists()
        if source and path.is_dir():
            return path
    except (OSError, RuntimeError):  # longer than the file system allows, or the home of nobody
        taken = True
    if taken or not _HUB_ID.fullmatch(source):
        raise InputError(
            f"the model is {source!r}",
            f"allowed are {', '.join(PRESETS)}, a folder, a .safetensors file, or a hub id such as owner/name",
            "check the name or the path",
        )
    return _from_hub(source, download, progress)


def _from_hub(repo: str, download: bool, progress: Progress | None) -> Path:
    """The local snapshot of a hub repository, fetched only when `download` says so."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from tqdm import tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if progress is not None and self.unit == "B" and self.total:
                progress(int(self.n), int(self.total))
            return shown

    try:
        return Path(snapshot_download(repo, local_files_only=not download, tqdm_class=Bar if download else None))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{repo} is not in the local hub cache",
            "nothing is downloaded unless you allow it" if not download else "the hub could not be reached",
            f"switch download on, or run: hf download {repo}",
        ) from error
    except Exception as error:  # the hub's own errors have many roots: gated, missing, no network
        raise ModelError(
            f"fetching {repo} failed with: {_reason(error)}",
            "the id must name a public ACE-Step 1.5 repository in diffusers' format",
            "check the id and the network",
        ) from error


def _check_index(folder: Path) -> None:
    index = folder / "model_index.json"
    try:
        name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder} has no readable model_index.json",
            "a model folder is one that diffusers saved",
            "point to the folder that holds model_index.json",
        ) from error
    if name != "AceStepPipeline":
        raise ModelError(f"{folder} holds a {name}", "an AceStepPipeline is needed", "choose an ACE-Step 1.5 model")


def _read(folder: Path, dtype: torch.dtype) -> AceStepPipeline:
    try:
        with quiet():
            vae_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
            return AceStepPipeline.from_pretrained(
                folder, dtype={"default": dtype, "vae": vae_dtype}, local_files_only=True
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors each raise their own kinds
        raise ModelError(
            f"{folder} could not be loaded: {_reason(error)}",
            "every part of an ACE-Step 1.5 pipeline must be there, whole and of the shapes that its config says",
            "fetch the model again",
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of a library's error, for use within one of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"[.!?;](?:\s|$)", text, maxsplit=1)[0][:300]


def _check_format(pipe: AceStepPipeline, source: str) -> None:
    given = (
        int(pipe.vae.config.sampling_rate),
        int(pipe.vae.hop_length),
        int(pipe.transformer.config.audio_acoustic_hidden_dim),
    )
    if given != (SAMPLE_RATE, HOP, LATENT_DIM):
        raise ModelError(
            f"{source} has {given[0]} Hz, {given[1]} samples a frame and {given[2]} latent channels",
            f"ACE-Step 1.5 has {SAMPLE_RATE} Hz, {HOP} and {LATENT_DIM}",
            "choose an ACE-Step 1.5 model",
        )


def _check_keys(pipe: AceStepPipeline, folder: Path) -> None:
    """Compare each part's tensors with its files: a missing one would otherwise play at random."""
    parts = ("transformer", "vae", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer", "text_encoder")
    for name in parts:
        module, files = getattr(pipe, name), sorted((folder / name).glob("*.safetensors"))
        if module is None or not files:  # an optional part, or weights in another format
            continue
        stored: set[str] = set()
        for path in files:
            with safe_open(path, framework="pt") as opened:
                stored.update(opened.keys())
        if name == "text_encoder":  # a causal language model's file serves too: it has a prefix, and a head unused here
            stored = {key.removeprefix("model.") for key in stored - {"lm_head.weight"}}
        missing, left = sorted(module.state_dict().keys() - stored), sorted(stored - module.state_dict().keys())
        if missing or left:
            raise ModelError(
                f"{name} lacks {len(missing)} tensors {missing[:8]} and has {len(left)} it does not know {left[:8]}",
                "files and config must name the same tensors",
                "fetch the model again",
            )


def _identity(folder: Path) -> str:
    digest = hashlib.sha256()
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    for path in (p for p in files if p.is_file() and not p.name.startswith(".")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
        else:
            stat = path.stat()
            digest.update(f"{stat.st_size}:{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
