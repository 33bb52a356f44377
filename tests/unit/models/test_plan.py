"""A plan of audio codes goes where the diffusers pipeline puts it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.pipelines.ace_step.pipeline_ace_step import TASK_INSTRUCTIONS
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.nodes.shared import layout

from ...helpers import Asked

SECONDS, FRAMES = 1.0, 25
CODES = [3, 1, 4, 1, 5]  # five a second


def words(codes: list[int]) -> str:
    return "".join(f"<|audio_code_{code}|>" for code in codes)


def test_codes_are_decoded_as_the_pipeline_does(turbo) -> None:
    made = encode_prompt(turbo, Prompt("piano", seconds=SECONDS), codes=CODES)
    dtype, device = turbo.pipe.transformer.dtype, turbo.device
    wanted, length = turbo.pipe.prepare_src_latents(device, dtype, audio_codes=words(CODES))
    assert length == FRAMES and torch.equal(made.context[:, :64], wanted[0])
    assert bool((made.context[:, 64:] == 1).all())
    assert not torch.equal(made.context, encode_prompt(turbo, Prompt("piano", seconds=SECONDS)).context)


def test_the_text_asks_as_the_pipeline_does(turbo) -> None:
    """With codes, the pipeline's text2music has the instruction of a cover."""
    model = replace(turbo, pipe=Asked(turbo.pipe))
    encode_prompt(model, Prompt("piano", seconds=SECONDS), codes=CODES)
    encode_prompt(model, Prompt("piano", seconds=SECONDS))
    assert [one["instruction"] for one in model.pipe.asked] == [
        TASK_INSTRUCTIONS["cover"],
        TASK_INSTRUCTIONS["text2music"],
    ]


@pytest.mark.parametrize("count", [2, 5, 9])
def test_a_plan_of_another_length(turbo, count: int) -> None:
    """What is too long is cut; after what is too short comes what silence is encoded as."""
    codes = (CODES * 2)[:count]
    made = encode_prompt(turbo, Prompt("piano", seconds=SECONDS), codes=codes).context
    assert made.shape == (FRAMES, 128)
    whole = encode_prompt(turbo, Prompt("piano", seconds=SECONDS), codes=(codes + CODES)[:5]).context
    assert torch.equal(made, whole) == (count >= 5)
    silence = turbo.pipe.condition_encoder.silence_latent[0, :FRAMES]
    if count == 2:
        rest = encode_prompt(turbo, Prompt("piano", task="cover"), silence).context
        assert torch.equal(made[10:], rest[10:]) and not torch.equal(made[:10], rest[:10])


def test_what_is_no_plan(turbo) -> None:
    most = turbo.pipe.audio_tokenizer.quantizer.codebook_size
    for codes in ([most], [-1]):
        with pytest.raises(InputError, match=f"audio code {codes[0]} is given"):
            encode_prompt(turbo, Prompt("piano", seconds=SECONDS), codes=codes)
    source = torch.zeros(FRAMES, 64)
    with pytest.raises(InputError, match="the task is cover and codes are given"):
        encode_prompt(turbo, Prompt("piano", task="cover"), source, codes=CODES)
    monkey = turbo.pipe.audio_tokenizer
    try:
        turbo.pipe.audio_tokenizer = None
        with pytest.raises(InputError, match="has no audio tokenizer"):
            encode_prompt(turbo, Prompt("piano", seconds=SECONDS), codes=CODES)
    finally:
        turbo.pipe.audio_tokenizer = monkey


def test_codes_are_read_from_conditioning_and_text() -> None:
    """ComfyUI keeps them beside the tokens, a list for each of the batch."""
    assert layout.codes_of([[torch.zeros(1, 2, 3), {"audio_codes": [CODES]}]]) == CODES
    assert layout.codes_of(f"plan: {words(CODES)} <|audio_code_x|>") == CODES
    for none in ("no code", [[torch.zeros(1, 2, 3), {}]], [[torch.zeros(1, 2, 3), {"audio_codes": [[]]}]]):
        with pytest.raises(InputError, match="generate_audio_codes"):
            layout.codes_of(none)
    with pytest.raises(InputError, match="2 lists"):
        layout.codes_of([[torch.zeros(1, 2, 3), {"audio_codes": [CODES, CODES]}]])
