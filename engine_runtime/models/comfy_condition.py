"""ComfyUI's CONDITIONING as a condition, through the core model's own preparation code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..spec import ACE_STEP
from ..stream.request import Condition, check_tensor
from .comfy_model import model_id
from .comfy_queue import bring

Entry = tuple[Tensor, dict[str, Any]]

_KNOWN = {
    "pooled_output",
    "conditioning_lyrics",
    "audio_codes",
    "reference_audio_timbre_latents",
    "attention_mask",
}
_NEUTRAL = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "lyrics_strength": 1.0}
_REFERENCE = "reference_audio_timbre_latents"


@dataclass(frozen=True, eq=False)
class References:
    """Clips that ComfyUI's CONDITIONING cannot keep apart.

    Attributes:
        timbre: `[T', 64]` latent whose sound is taken on.
        structure: `[T', 64]` latent whose structure is kept.
        repaint: `[T, 64]` latent that is kept outside the window.
        start, end: the window in seconds; an end of 0 is the latent's end.
    """

    timbre: Tensor | None = None
    structure: Tensor | None = None
    repaint: Tensor | None = None
    start: float = 0.0
    end: float = 0.0


@torch.inference_mode()
def core_condition(
    patcher: Any,
    positive: list[Entry],
    negative: list[Entry] | None,
    frames: int,
    references: References | None = None,
) -> Condition:
    """Prepare one condition.

    Args:
        patcher: the MODEL.
        positive, negative: CONDITIONING of one entry each; without a negative the model's null condition is used.
        frames: T.
        references: timbre, structure and repaint, if they are to differ from what the CONDITIONING says.

    Raises:
        InputError: for several entries, and for areas, masks, time ranges, strengths, hooks and controls.
    """
    bring(patcher)
    given, made_by = references or References(), model_id(patcher)
    plus = _single(positive, "positive", patcher)
    tokens, context = _capture(patcher, _with(plus, given.timbre), frames)
    if given.structure is not given.timbre:
        context = _capture(patcher, _with(plus, given.structure), frames)[1]
    if given.repaint is not None:
        context = _repaint(patcher, plus, context, given, frames)
    if negative is None:
        null = patcher.model.diffusion_model.null_condition_emb.detach()[0].to(tokens, copy=True)
        return Condition(tokens, context, null.expand_as(tokens), model=made_by)
    minus_tokens, minus_context = _capture(patcher, _single(negative, "negative", patcher), frames)
    own = given.structure is None and given.repaint is None  # else the negative row hears the same source
    return Condition(tokens, context, minus_tokens, minus_context if own else None, model=made_by)


def _single(conditioning: list[Entry], name: str, patcher: Any) -> Entry:
    if len(conditioning) != 1:
        raise InputError(
            f"the {name} conditioning has {len(conditioning)} entries",
            "one entry is played",
            "remove Conditioning Combine, or schedule prompts as requests",
        )
    entry = conditioning[0]
    held: dict[str, Any] = {"text": entry[0], **{k: entry[1].get(k) for k in ("conditioning_lyrics", "audio_codes")}}
    held["reference"] = (entry[1].get(_REFERENCE) or [None])[-1]
    for what, value in held.items():
        if value is not None and len(value) != 1:
            raise InputError(
                f"the {name} conditioning holds {len(value)} of {what.removeprefix('conditioning_')}",
                "one is played, for every latent of the batch",
                "choose one of the batch",
            )
    neutral = {k for k, v in entry[1].items() if v is None or (k in _NEUTRAL and v == _NEUTRAL[k])}
    foreign = sorted(entry[1].keys() - _KNOWN - neutral)
    if foreign:
        raise InputError(
            f"the {name} conditioning carries {', '.join(foreign)}",
            "text, lyrics, audio codes and a reference are played, over the whole of the music and all steps",
            "remove the nodes that set them",
        )
    width = patcher.model.diffusion_model.encoder.text_projector.weight.shape[1]
    for what in ("text", "conditioning_lyrics"):
        value = held[what]
        shape = None if value is None else list(value.shape)
        if shape is None or len(shape) != 3 or shape[2] != width or not shape[1]:
            raise InputError(
                f"the {name} conditioning has {'no' if shape is None else shape} {what.removeprefix('conditioning_')}",
                f"ACE-Step 1.5 takes [1, tokens, {width}]",
                "connect Text Encode Ace Step Audio 1.5",
            )
    return entry


def _with(entry: Entry, reference: Tensor | None) -> Entry:
    """Replace the reference latent of an entry with `reference` `[T', 64]`."""
    if reference is None:
        return entry
    check_tensor("the reference latent", reference, None, ACE_STEP.channels)
    return entry[0], {**entry[1], _REFERENCE: [reference.T[None]]}


class _Captured(Exception):
    """Carries the decoder's inputs out of the core model's forward."""


def _capture(patcher: Any, entry: Entry, frames: int) -> tuple[Tensor, Tensor]:
    """Return the decoder's inputs as ComfyUI prepares them: tokens `[L, H]` and context `[T, 128]`."""
    import comfy.sampler_helpers
    import comfy.samplers

    model, device = patcher.model, patcher.load_device
    x = torch.zeros(1, ACE_STEP.channels, frames, device=device)
    conds = comfy.sampler_helpers.convert_cond([entry])
    conds = comfy.samplers.encode_model_conds(model.extra_conds, conds, x, device, "positive", latent_image=x)
    inputs = {k: v.process_cond(batch_size=1, area=None).cond for k, v in conds[0]["model_conds"].items()}

    def stop(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        raise _Captured(kwargs["encoder_hidden_states"], kwargs["context_latents"])

    hook = model.diffusion_model.decoder.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.apply_model(x, torch.ones(1, device=device), **inputs)
    except _Captured as caught:
        tokens, context = caught.args
        return tokens[0].clone(), context[0].clone()
    finally:
        hook.remove()
    raise RuntimeError("ComfyUI's ACE-Step 1.5 model did not call its decoder")


def _repaint(patcher: Any, entry: Entry, context: Tensor, given: References, frames: int) -> Tensor:
    """Return a context with silence and mask 1 inside the window, the latent and mask 0 outside; ComfyUI's mask is 1
    everywhere."""
    assert given.repaint is not None
    check_tensor("the repaint latent", given.repaint, frames, ACE_STEP.channels)
    first, last = ACE_STEP.frame_at(given.start), ACE_STEP.frame_at(given.end) if given.end else frames
    if not 0 <= first < last <= frames:
        raise InputError(
            f"the repaint window runs from {given.start:g} to {ACE_STEP.seconds(last):g} s",
            f"it must lie within the latent's {ACE_STEP.seconds(frames):g} s",
            "move it",
        )
    bare = {k: v for k, v in entry[1].items() if k not in (_REFERENCE, "audio_codes")}
    silence = _capture(patcher, (entry[0], bare), frames)[1][:, : ACE_STEP.channels]
    mask = torch.zeros_like(silence)
    mask[first:last] = 1.0
    inside = context[:, : ACE_STEP.channels] if given.structure is not None else silence
    return torch.cat([torch.where(mask > 0.5, inside, given.repaint.to(silence)), mask], dim=-1)
