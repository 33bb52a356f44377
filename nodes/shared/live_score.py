"""From the inputs of a node that plays live to a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...engine_runtime.config import NO_GUIDANCE, Sampling
from ...engine_runtime.errors import InputError
from . import control_values, from_comfy, layout

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine_runtime.audio.live_vae import LiveVae
    from ...engine_runtime.live.score import Score
    from ...engine_runtime.models.loading import Model
    from ...engine_runtime.spec import ModelSpec
    from .given import Latent

LIVE = "OstinatoLiveSession"  # the id of that node
HOT = frozenset({"knobs", "tracks", "adapters", "depth"})  # inputs that act at the next tick
RING = frozenset({"engine", "model", "vae", "mode"})  # and those that take another ring
LENGTH = "seconds"  # a widget that sets how long the music is, which takes one too
SAMPLING = ("steps", "shift", "denoise", "seed", "solver")


def usual_cost(widget: str, inputs: set[str]) -> str:
    """Name the cost that turning a widget has as a rule, by the inputs of the session that it reaches.

    What it does cost is known once it was turned: a longer prompt may need another ring, and a curve may be the same.
    """
    if widget == LENGTH or inputs & RING:
        return "ring"
    return "tick" if inputs <= HOT else "slot"


class Scorer:
    """Makes scores of the inputs of Live Session, or of Stream Denoise.

    What was made of an input is kept until that input is another object: a score counts a tensor as changed where it is
    another one.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def score(self, given: Mapping[str, Any], model: Model, mode: str, bpm: float) -> Score:
        """Make the score of inputs by name.

        Args:
            model: whose VAE makes the sound.
            bpm: that the prompt asks for; 0 where it is left open.

        Raises:
            InputError: for inputs that do not fit each other, as in Stream Denoise, or that cannot be played live.
        """
        from ...engine_runtime.live.score import Score

        named, once, engine = given.get, self._once, given["engine"]
        engine = once("engine", (engine,), lambda: from_comfy.engine_of(engine))
        guided, knobs, shape, adapters = (named(name) for name in ("guidance", "knobs", "shape", "adapters"))
        source, tracks, spec = named("source"), tuple(track.endless() for track in named("tracks") or ()), engine.spec
        sources = once("source", (source, engine), lambda: _clips(source, spec))
        key = engine, given["condition"], named("negative"), control_values.needs_negative(guided, tracks)
        what = once("condition", (*key, source), lambda: from_comfy.condition_of(*key, sources))
        frames = from_comfy.frames_of(what)
        masks = once("mask", (source,), lambda: None if source is None else layout.masks_of(source))
        more = dict(once("shape", (shape, frames), lambda: control_values.sample_shape(shape, frames, spec)))
        mask = masks[0] if masks is not None else more.pop("mask", None)
        hot = once("knobs", (knobs, frames), lambda: control_values.sample_knobs(knobs, frames, spec))
        moving = once("moving", (knobs, frames), lambda: control_values.moving_knobs(knobs, frames, spec))
        guide = once("guidance", (guided, frames), lambda: control_values.sample_guidance(guided, frames, spec))
        walk = Sampling(**{name: given[name] for name in SAMPLING if name in given})
        parts = len(what) if isinstance(what, tuple) else 1
        control_values.check_used(hot, guide, shape or {}, parts, tracks, masks is not None)
        mix = once("adapters", (adapters, engine), lambda: control_values.read_adapters(adapters or (), engine.targets))
        schedule = from_comfy.schedule_of(engine, walk)
        return Score(
            engine,
            given.get("vae") or once("vae", (model,), lambda: _voice(model)),
            what,
            walk,
            given.get("seed_step", 0),
            guide or NO_GUIDANCE,
            more if schedule is None else {**more, "schedule": schedule},
            sources[0] if sources else None,
            mask,
            hot,
            tracks,
            tuple(mix),
            given["depth"],
            mode,
            moving=moving,
            beat=60.0 * spec.frame_rate / bpm if bpm else 0.0,
        )

    def _once(self, name: str, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Return what was made of these objects before, else make it."""
        known = self._made.get(name)
        if known is not None and all(a is b or _equal(a, b) for a, b in zip(known[0], key, strict=True)):
            return known[1]
        made = make()
        self._made[name] = key, made
        return made


def _voice(model: Model) -> LiveVae:
    from ...engine_runtime.audio.live_vae import LiveVae

    return LiveVae(model.pipe.vae, model.ready)


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, bool | int | float | str) and type(a) is type(b) and a == b


def _clips(source: Latent | None, spec: ModelSpec) -> list[Tensor]:
    """Return the source's only clip in a list, or an empty one. Raises `InputError` for several."""
    clips = [] if source is None else layout.from_latent(source, "the source", spec)
    if len(clips) > 1:
        raise InputError(f"the source holds {len(clips)} clips", "a live session plays one", "choose one of the batch")
    return clips
