"""Prompts to conditions, as `diffusers.AceStepPipeline` prepares them for text2music, cover and repaint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AceStepAudioTokenizer
from diffusers.pipelines.ace_step.pipeline_ace_step import TASK_INSTRUCTIONS
from torch import Tensor

from ..device.memory import guarded
from ..device.workers import is_large, workers
from ..errors import InputError
from ..stream.request import Condition, check_tensor
from .loading import Model
from .prompt import Prompt

TIMBRE_SECONDS = 30
MAX_TEXT_TOKENS, MAX_LYRIC_TOKENS = 256, 2048  # what the model was trained with


@torch.inference_mode()
def encode_prompt(
    model: Model,
    prompt: Prompt,
    source: Tensor | None = None,
    timbre: Tensor | None = None,
    codes: Sequence[int] | None = None,
) -> Condition:
    """Encode one prompt.

    Args:
        model: the loaded pipeline.
        prompt: what to say.
        source: `[T, 64]` latent for cover and repaint; for text2music it only sets the length.
        timbre: `[frames, 64]` latent of a timbre reference, else the model's silence.
        codes: a plan of the music, five a second from its start, as ACE-Step's language model writes it for
            text2music; what they do not reach is silence.

    Returns:
        Tokens `[L, H]`, context `[T, 128]`, and the null condition of a base model, in the transformer's dtype.

    Raises:
        InputError: for a cover or repaint without a source, or text beyond the model's length; for codes that the model
            does not have, or beside another task.
    """
    if codes is not None and prompt.task != "text2music":
        raise InputError(
            f"the task is {prompt.task} and codes are given", "they plan what text2music makes", "disconnect the codes"
        )
    model.ready()
    pipe, device, dtype = model.pipe, model.device, model.pipe.transformer.dtype
    if source is not None:
        check_tensor("the source latent", source, None, model.spec.channels)
        source = source.to(device, dtype)
    elif prompt.task != "text2music":
        raise InputError(f"the task is {prompt.task} and there is no source", "it needs one", "connect a source")
    if timbre is not None:
        check_tensor("the timbre latent", timbre, None, model.spec.channels)
    frames = model.spec.frames_of(prompt.seconds) if source is None else source.shape[0]
    seconds = prompt.seconds if source is None else model.spec.seconds(frames)
    with guarded(
        f"encoding the prompt found no room on {device}",
        "the text and condition encoders must fit beside the rest",
        "unload other models",
    ):
        if device.type == "cpu":
            large = is_large(pipe.text_encoder) or is_large(pipe.condition_encoder)
            tokens = workers().run(lambda: _tokens(model, prompt, seconds, timbre, codes is not None), wide=large)
        else:
            tokens = _tokens(model, prompt, seconds, timbre, codes is not None)
        if codes is None:
            parts = _context(model, prompt, source, frames)
        else:
            parts = _planned(model, codes, frames), torch.ones(frames, model.spec.channels, device=device, dtype=dtype)
        context = torch.cat(parts, dim=-1)
    null = None if model.turbo else pipe.condition_encoder.null_condition_emb.detach()[0].to(device, dtype, copy=True)
    return Condition(tokens, context, None if null is None else null.expand_as(tokens), spec=model.spec, model=model.id)


def _tokens(model: Model, prompt: Prompt, seconds: float, timbre: Tensor | None, planned: bool) -> Tensor:
    """Encode text, lyric and timbre tokens with the condition encoder: `[L, H]`.

    Args:
        planned: ask for what the model makes of codes, in the words of a cover.
    """
    pipe, device, dtype = model.pipe, model.device, model.pipe.transformer.dtype
    fields = {
        "vocal_language": prompt.said("language") or "",
        "audio_duration": seconds,
        "instruction": TASK_INSTRUCTIONS["cover" if planned else prompt.task],
        "bpm": prompt.bpm or None,
        "keyscale": prompt.said("key"),
        "timesignature": prompt.said("time_signature"),
    }
    # One token more than allowed, so that a text too long shows instead of being cut.
    text, text_mask, lyrics, lyric_mask = pipe.encode_prompt(
        prompt.tags,
        prompt.lyrics,
        device,
        max_text_length=MAX_TEXT_TOKENS + 1,
        max_lyric_length=MAX_LYRIC_TOKENS + 1,
        **fields,
    )
    for name, given, most in (("tags", text, MAX_TEXT_TOKENS), ("lyrics", lyrics, MAX_LYRIC_TOKENS)):
        if given.shape[1] > most:
            raise InputError(
                f"the {name} with their headings are longer than {most} tokens",
                f"the model was trained with at most {most}",
                f"shorten the {name}",
            )
    if timbre is None:
        timbre = pipe.condition_encoder.silence_latent[0, : TIMBRE_SECONDS * model.spec.frame_rate]
    packed, mask = pipe.condition_encoder(
        text_hidden_states=text,
        text_attention_mask=text_mask,
        lyric_hidden_states=lyrics,
        lyric_attention_mask=lyric_mask,
        refer_audio_acoustic_hidden_states_packed=timbre[None].to(device, dtype),
        refer_audio_order_mask=torch.zeros(1, dtype=torch.long, device=device),
    )
    return packed[0][mask[0]]


def _context(model: Model, prompt: Prompt, source: Tensor | None, frames: int) -> tuple[Tensor, Tensor]:
    """Return source channels and chunk mask, `[T, 64]` each; the mask is 1 where music is to be made."""
    pipe, device, dtype = model.pipe, model.device, model.pipe.transformer.dtype
    mask = torch.ones(frames, model.spec.channels, device=device, dtype=dtype)
    if prompt.task == "cover" and source is not None:
        return _structure(model, source), mask
    silence, _ = pipe.prepare_src_latents(device, dtype, latent_length=frames)
    if prompt.task == "text2music" or source is None:
        return silence[0], mask
    first = model.spec.frame_at(prompt.repaint_start)
    last = model.spec.frame_at(prompt.repaint_end) if prompt.repaint_end else frames
    if first >= frames or last > frames:
        raise InputError(
            f"the repaint window runs from {prompt.repaint_start:g} to {model.spec.seconds(last):g} s",
            f"the source is {model.spec.seconds(frames):g} s long",
            "move the window inside the source",
        )
    mask.zero_()
    mask[first : max(last, first + 1)] = 1.0
    return torch.where(mask > 0.5, silence[0], source), mask


def _structure(model: Model, source: Tensor) -> Tensor:
    """Encode the source to the model's 5 Hz tokens and back, `[T, 64]`: its structure without its sound."""
    pipe = model.pipe
    _check_tokenizer(model, "a cover needs")
    silence = pipe.condition_encoder.silence_latent.to(source.device, source.dtype)
    quantized, _ = pipe.audio_tokenizer.tokenize(source[None], silence)
    return pipe.audio_token_detokenizer(quantized.to(source.dtype))[0, : source.shape[0]].contiguous()


def _planned(model: Model, codes: Sequence[int], frames: int) -> Tensor:
    """Decode a plan of audio codes, `[frames, 64]`; where it is too short, the codes of silence follow."""
    pipe, device, dtype = model.pipe, model.device, model.pipe.transformer.dtype
    _check_tokenizer(model, "codes need")
    coder = pipe.audio_tokenizer
    if odd := [code for code in codes if not 0 <= code < coder.quantizer.codebook_size]:
        raise InputError(
            f"the audio code {odd[0]} is given",
            f"{model.name} has 0 to {coder.quantizer.codebook_size - 1}",
            "take codes that were made for this model",
        )
    silence, _ = pipe.prepare_src_latents(device, dtype, latent_length=frames)
    quantized, _ = coder.tokenize(silence, pipe.condition_encoder.silence_latent.to(device, dtype))
    count = min(len(codes), quantized.shape[1])
    if count:
        planned = quantized_codes(coder, codes[:count])
        quantized = torch.cat([planned.to(quantized), quantized[:, count:]], dim=1)
    return pipe.audio_token_detokenizer(quantized.to(dtype))[0, :frames].contiguous()


def quantized_codes(coder: AceStepAudioTokenizer, codes: Sequence[int]) -> Tensor:
    """Return what the tokenizer makes of codes of its first quantizer, `[1, codes, H]`, for the detokenizer."""
    shape = (1, len(codes), coder.config.fsq_input_num_quantizers)
    indices = torch.zeros(shape, device=coder.device, dtype=torch.long)
    indices[0, :, 0] = torch.tensor(codes, device=coder.device)
    found: Tensor = coder.quantizer.get_output_from_indices(indices)
    return found


def _check_tokenizer(model: Model, what: str) -> None:
    if model.pipe.audio_tokenizer is None or model.pipe.audio_token_detokenizer is None:
        raise InputError(
            f"{model.name} has no audio tokenizer",
            f"{what} audio_tokenizer and audio_token_detokenizer",
            "load a model that has them",
        )
