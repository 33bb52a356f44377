"""From a name to a loaded model: a built-in preset, a local folder in diffusers' format, or a hub id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AceStepPipeline

from ..constants import PRESETS
from ..device import gpu
from ..device.memory import guarded
from ..errors import InputError, ModelError
from ..files import read_bytes
from ..spec import ACE_STEP, ModelId, ModelSpec
from .checkpoint import load_checkpoint
from .folder import load_folder
from .given import NOTHING, Given
from .hub import Progress, is_hub_id, snapshot
from .presets import preset_folder
from .quiet import offline, quiet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HASHED = 24 << 20  # bytes of a config at most, whose contents tell a model from another
ROOM = ("the weights must fit beside what is loaded", "unload other models or use a smaller precision")

CHECKPOINT = ".safetensors"


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded ACE-Step 1.5 pipeline, and what the runtime needs to know of it.

    Attributes:
        pipe: the diffusers pipeline that prepares conditions; its transformer is the engine's.
        turbo: guidance is distilled in; else a base or SFT model, with a null condition.
        identity: hash of the configs, and of the sizes and times of the weight files.
        source: the name under which another process finds it: a path as an absolute one.
        ready: brings the weights to the device before they are used; a host that manages memory gives its own.
        spec: its sizes, which `load` has compared with those of its parts.
        given: what of it was given beside its name.
    """

    pipe: AceStepPipeline
    name: str
    turbo: bool
    identity: str
    source: str
    ready: Callable[[], None] = lambda: None
    spec: ModelSpec = ACE_STEP
    given: Given = NOTHING

    @property
    def device(self) -> torch.device:
        return self.pipe.transformer.device

    @property
    def id(self) -> ModelId:
        return ModelId(self.identity, self.name)


def pick_device(choice: str) -> torch.device:
    """Choose a device; `auto` is the current CUDA device where there is one, else the CPU. Raises `InputError`."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    if choice not in ("cpu", "cuda"):
        raise InputError(f"the device is {choice!r}", "allowed are auto, cpu and cuda", "choose one of them")
    if choice == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("the device is cuda", "this PyTorch sees no CUDA device", "use auto or cpu")
    return gpu.current()


def pick_dtype(choice: str, device: torch.device) -> torch.dtype:
    """Choose a dtype; `auto` is bfloat16 on a GPU that computes in it, else float32. Raises `InputError`."""
    if choice == "auto":
        return torch.bfloat16 if gpu.computes_in_bfloat16(device) else torch.float32
    if choice not in DTYPES:
        raise InputError(f"the precision is {choice!r}", f"allowed are auto, {', '.join(DTYPES)}", "choose one")
    return DTYPES[choice]


def load(
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    download: bool = False,
    progress: Progress | None = None,
    local: bool = True,
    given: Given = NOTHING,
) -> Model:
    """Load a model. Nothing that its files name is run, and without `download` nothing is asked of the network.

    Args:
        source: a preset, a folder with a `model_index.json`, a `.safetensors` checkpoint (single file, or the diffusion
            model of split files in ComfyUI's model folders), or a hub id `owner/name`.
        device, dtype: where the weights go and in what precision; the VAE is float32 unless `dtype` is bfloat16.
        download: whether a hub id may be fetched over the network; else only the local hub cache is used.
        progress: told the bytes of a download.
        local: whether a relative path may be given; a name of whoever reaches a server must not become one.
        given: what a checkpoint's own file does not say or hold.

    Raises:
        InputError: for a name that is none of these, and for parts given beside what has its own.
        ModelError: for what is no ACE-Step 1.5 model, is not whole, or names code to run.
        MemoryShortage: when the device has no room.
    """
    source = source.strip()
    path, is_path = _find(source, local, download, progress)
    _check_given(given, path, source)
    with guarded(f"loading {source} found no room on {device}", *ROOM), quiet(), offline():
        if path.suffix == CHECKPOINT:
            pipe = load_checkpoint(path, device, dtype, given.kind, given.vae, given.text_encoder)
        else:
            pipe = load_folder(path, device, dtype)
    _check_format(pipe, source)
    config = pipe.transformer.config
    turbo = bool(getattr(config, "is_turbo", False)) or getattr(config, "model_version", None) == "turbo"
    pipe.set_progress_bar_config(disable=True)
    identity = _identity(path, *(Path(file) for file in (given.vae, given.text_encoder) if file is not None))
    return Model(pipe, source, turbo, identity, str(path.absolute()) if is_path else source, given=given)


def _check_given(given: Given, path: Path, source: str) -> None:
    if (named := given.named()) and path.suffix != CHECKPOINT:
        raise InputError(
            f"{' and '.join(named)} of {source} {'is' if len(named) == 1 else 'are'} given",
            f"only a {CHECKPOINT} file lacks them; what is in diffusers' format has its own",
            f"set {' and '.join(named)} to auto",
        )


def check_there(source: str, local: bool, download: bool) -> None:
    """Raise `InputError` or `ModelError` where `load` would not find a model; nothing is loaded or fetched.

    Args:
        local, download: as in `load`; what may be fetched counts as there.
    """
    if download and is_hub_id(source):
        return
    path, _ = _find(source, local, False, None)
    if not path.exists():
        raise InputError(
            f"the model {source} is not there", f"allowed are {', '.join(PRESETS)} and what is", "fetch it"
        )


def _find(source: str, local: bool, download: bool, progress: Progress | None) -> tuple[Path, bool]:
    """Return the folder or file of a name, and whether the name is its path."""
    if source in PRESETS:
        return preset_folder(source), False
    taken = False
    if source and (local or os.path.isabs(source)):
        try:
            path = Path(source).expanduser()
            taken = path.exists()
            if path.is_dir() or (taken and path.suffix == CHECKPOINT):
                return path, True
        except (OSError, RuntimeError):  # longer than the file system allows, or the home of nobody
            taken = True
    if taken or not is_hub_id(source) or source.endswith(CHECKPOINT):
        raise InputError(
            f"the model is {source!r}" if taken else f"no model {source!r} was found",
            f"allowed are {', '.join(PRESETS)}, a folder, a {CHECKPOINT} file, or a hub id such as owner/name",
            "check the name or the path",
        )
    return snapshot(source, download, progress), False


def _check_format(pipe: AceStepPipeline, source: str) -> None:
    """Compare what the parts hand to each other, which their own files cannot tell."""
    vae, transformer, encoder = pipe.vae.config, pipe.transformer.config, pipe.condition_encoder.config
    width, spec = transformer.encoder_hidden_size or transformer.hidden_size, ACE_STEP
    pairs = [
        ("Hz", vae.sampling_rate, spec.sample_rate),
        ("samples a frame", pipe.vae.hop_length, spec.hop),
        ("audio channels", vae.audio_channels, spec.audio_channels),
        ("latent channels", transformer.audio_acoustic_hidden_dim, spec.channels),
        ("latent channels in its VAE's encoder", vae.encoder_hidden_size / 2, spec.channels),
        ("latent channels in its VAE's decoder", vae.decoder_input_channels, spec.channels),
        ("latent channels of timbre", encoder.timbre_hidden_dim, spec.channels),
        ("channels into its transformer", transformer.in_channels, spec.channels + spec.context),
        ("frames a patch", transformer.patch_size, spec.patch),
        ("channels of text", pipe.text_encoder.config.hidden_size, encoder.text_hidden_dim),
        ("channels of conditions", encoder.hidden_size, width),
    ]
    if pipe.audio_tokenizer is not None and pipe.audio_token_detokenizer is not None:
        coder, decoder = pipe.audio_tokenizer.config, pipe.audio_token_detokenizer.config
        pairs += [
            ("channels of audio tokens", coder.hidden_size, coder.fsq_dim),
            ("channels of audio tokens", decoder.hidden_size, coder.fsq_dim),
            ("frames an audio token", decoder.pool_window_size, coder.pool_window_size),
            ("latent channels of audio tokens", coder.audio_acoustic_hidden_dim, spec.channels),
            ("latent channels from audio tokens", decoder.audio_acoustic_hidden_dim, spec.channels),
        ]
    for what, given, needed in pairs:
        if given != needed:
            raise ModelError(
                f"{source} has {given:g} {what}",
                f"{needed} are needed of ACE-Step 1.5 and its other parts",
                "choose an ACE-Step 1.5 model",
            )


def _identity(path: Path, *parts: Path) -> str:
    """Hash what a model is made of: its folder or file, and the files given for its parts."""
    digest = hashlib.sha256()
    walk = os.walk(path)  # passes over a folder that cannot be listed, such as one too deep for its path
    files = [path] if path.is_file() else sorted(Path(at, name) for at, _, names in walk for name in names)
    for file in (f for f in files if f.is_file() and not f.name.startswith(".")):
        digest.update(os.fsencode(file.relative_to(path)))
        stat = file.stat()
        if file.suffix == ".json" and stat.st_size <= _HASHED:
            digest.update(read_bytes(file, _HASHED))
        else:
            digest.update(f"{stat.st_size}:{stat.st_mtime_ns}".encode())
    for part in parts:
        digest.update(_identity(part).encode())
    return digest.hexdigest()[:16]
