"""Values of knobs at the edges of what is taken: shapes of curves, words in place of numbers, the largest tick."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.controls.knobs import KNOBS
from ostinato.engine_runtime.controls.values import check_frames, check_value, fits_frames
from ostinato.engine_runtime.errors import InputError


def test_a_curve_has_a_number_a_frame_and_nothing_else_unless_that_is_said():
    check_value("gain", torch.ones(5), 0, 1, "turn it")
    with pytest.raises(InputError, match=r"shape \[5, 1\]; allowed is \[frames\];"):
        check_value("gain", torch.ones(5, 1), 0, 1, "turn it")
    assert fits_frames(torch.ones(5), 5) and not fits_frames(torch.ones(1), 5)
    with pytest.raises(InputError, match="gain has 1 frames; the music has 5"):
        check_frames("gain", torch.ones(1), 5)


@pytest.mark.parametrize("channels", [3, None])
def test_a_curve_may_have_a_number_a_channel_where_that_is_said(channels):
    for shape in ((3,), (5, 3)):
        check_value("gain", torch.ones(shape), 0, 1, "turn it", channels)
    for shape in ((5, 0), (0, 3), (5, 3, 1)):
        with pytest.raises(InputError, match="the curve of gain has shape"):
            check_value("gain", torch.ones(shape), 0, 1, "turn it", channels)


@pytest.mark.parametrize("text", ["loud", "on"])
def test_a_word_in_place_of_a_number_is_repeated(text):
    with pytest.raises(InputError, match=f"sde is {'True' if text == 'on' else repr(text)}; allowed is a number"):
        KNOBS["sde"].parse(text)


def test_a_track_begins_at_any_tick_that_a_float_can_count():
    assert Track("sde", [1.0], start=2**53).at(2**53) == 1.0
    with pytest.raises(InputError, match="the track's start is"):
        Track("sde", [1.0], start=2**53 + 1)
