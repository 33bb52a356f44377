"""Renders a saved take again and compares the latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..engine_runtime.audio.decode import decode_clips
from ..engine_runtime.constants import KINDS, ROWS
from ..engine_runtime.engines.contract import Engine
from ..engine_runtime.errors import TakeError
from ..engine_runtime.files import typed
from ..engine_runtime.lora.adapter import Adapter
from ..engine_runtime.models.engines import torch_engine
from ..engine_runtime.models.given import NOTHING, Given
from ..engine_runtime.models.loading import Model, load, pick_device, pick_dtype
from ..engine_runtime.takes.replay import Replay, replay
from ..engine_runtime.takes.take import Log, Recipe
from ..nodes.shared import layout
from .core_nodes import Folders, use_folders, write_audio


@dataclass(frozen=True)
class Report:
    """The result of a replay.

    Attributes:
        compared: how many latents the take holds.
        differing: numbers, from 1, of those that differ or are missing.
        changed: differences in the setup that may be the reason.
    """

    log: str
    ticks: int
    latents: int
    compared: int
    differing: list[int]
    changed: list[str]
    files: list[str]

    @property
    def identical(self) -> bool | None:
        """Return whether every latent is the take's, bit by bit; None where the take holds none."""
        return not self.differing if self.compared else None

    def as_json(self) -> dict:
        return asdict(self) | {"identical": self.identical}

    def as_text(self) -> str:
        lines = [f"{self.latents} latents in {self.ticks} ticks", self._verdict()]
        if self.differing:
            lines += [f"  {change}" for change in self.changed]
        return "\n".join([*lines, *(f"wrote {file}" for file in self.files)])

    def _verdict(self) -> str:
        beyond = f"; {self.latents - self.compared} more finished after its end" * (self.latents > self.compared)
        if not self.compared:
            return "the take holds no finished latent to compare with"
        if not self.differing:
            return f"all {self.compared} of the take are bit-identical{beyond}"
        return f"{len(self.differing)} of {self.compared} differ from the take: {_listed(self.differing)}{beyond}"


def render_again(
    path: Path,
    out: Path,
    model: str | None,
    device: str,
    force: bool,
    on_tick: Callable[[int, int], None] = lambda done, total: None,
    loras: Sequence[Path] = (),
) -> Report:
    """Replay a take and write each latent's audio as SaveAudio does.

    Raises:
        TakeError: for a take that cannot be replayed here.
    """
    log = Log.load(path)
    loaded, engine = _load(log, model, device)
    played = replay(log, engine, on_tick, force, _read(loras, engine))
    with torch.inference_mode(), use_folders(Folders(out)):
        files = _write(loaded, played, f"audio/{path.stem.strip('_') or 'take'}")
    return Report(
        str(path),
        log.ticks,
        len(played.latents),
        len(played.expected),
        [i + 1 for i in played.differing],
        played.changed,
        files,
    )


def _load(log: Log, name: str | None, device: str) -> tuple[Model, Engine]:
    """Load the model and engine of the take's recipe; a given name or device overrides it.

    Raises:
        TakeError: for a take without a recipe, where no model is named.
    """
    recipe = log.recipe
    if recipe is None and name is not None:
        recipe = Recipe(model=name, precision="auto", device="auto", max_rows=ROWS)
    if recipe is None:
        raise TakeError(
            f"the take was played on {log.engine}, which has no recipe",
            "an engine on ComfyUI's MODEL lives in ComfyUI only, and a TensorRT engine is not replayed",
            "make the take with Load Model and Engine, or name a --model and add --force for music that will differ",
        )
    where = pick_device(recipe["device"] if device == "auto" else device)
    given = NOTHING if name else typed(recipe.get("given", {}), "what the take's recipe gives of its model", Given)
    loaded = load(name or recipe["model"], where, pick_dtype(recipe["precision"], where), given=given)
    return loaded, torch_engine(loaded, recipe.get("kind", KINDS[0]), recipe["max_rows"])


def _read(loras: Sequence[Path], engine: Engine) -> list[Adapter]:
    if loras and engine.targets is None:
        raise TakeError(f"adapters were given to {engine.name}", "it takes none", "leave --lora out")
    return [Adapter.read(path, engine.targets) for path in loras if engine.targets is not None]


def _write(model: Model, played: Replay, prefix: str) -> list[str]:
    model.ready()
    files = []
    for latent in played.latents:
        files += write_audio(layout.to_audio(decode_clips(model.pipe.vae, [latent]), model.spec.sample_rate), prefix)
    return files


def _listed(numbers: list[int], most: int = 12) -> str:
    more = f" and {len(numbers) - most} more" * (len(numbers) > most)
    return ", ".join(map(str, numbers[:most])) + more
