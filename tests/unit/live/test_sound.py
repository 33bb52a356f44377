"""Where the sound of a change begins, and when the next window is decoded, for a listener that stands still."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.live.block import Block, Moment
from ostinato.engine_runtime.live.level import DELAY
from ostinato.engine_runtime.live.line import Heard, Loop
from ostinato.engine_runtime.live.pace import TRANSIT
from ostinato.engine_runtime.live.sound import Sound
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.spec import ACE_STEP

HOP, RATE, SAMPLE_RATE = ACE_STEP.hop, ACE_STEP.frame_rate, ACE_STEP.sample_rate
OLD, NEW = 0.25, 0.75


@pytest.fixture
def source() -> SimpleNamespace:
    """A loop whose music has had change 1 since its beginning; the ring works."""
    line = Loop()
    line.add(torch.zeros(50, 64), Heard(1))
    return SimpleNamespace(line=line, works=True, until_laid=lambda: 0.0)


@pytest.fixture
def sound(turbo: Model, source: SimpleNamespace) -> Iterator[Sound]:
    """16 frames of older music are made, as decodes of 0.1 s would make it; the thread rests."""
    lock = threading.Condition(threading.Lock())
    made = Sound("test", turbo.pipe.vae, ACE_STEP, lock, lambda: source, lambda block: None, pytest.fail, 60.0)
    pcm = np.full((16 * HOP, 2), round(OLD * 32_767), "<i2").tobytes()
    with lock:
        made.tape.add(Moment(0, torch.zeros(16, 64), Block(1, 0, Heard(), 0, pcm)), [(0, Heard())])
        made.decoded, made._sent, made._begins = 16, 16 * HOP, False
    yield made
    made.close()


def paced(sound: Sound, usual: float, spent: float) -> None:
    sound.pace.size, sound.pace.usual, sound.pace.spent = 8, usual, spent


def test_a_change_fades_in_right_before_the_listener(sound: Sound) -> None:
    audio = np.full((2, 4 * HOP), NEW, np.float32)
    with sound.lock:
        sound._goes_back = True
        sound.listener.report(4 * HOP + 700, 2400, False)
        begins = sound._join(audio, 4 * HOP)
    assert begins == 4 * HOP + 700 + TRANSIT
    at = begins - 4 * HOP + DELAY
    assert np.allclose(audio[:, :at], OLD, atol=1e-4) and np.allclose(audio[:, at + HOP - DELAY :], NEW)
    rise = audio[0, at : at + HOP - DELAY]
    assert (np.diff(rise) >= 0).all() and rise[0] == pytest.approx(OLD, abs=1e-3) and rise.shape == (HOP - DELAY,)
    assert not sound._goes_back


def test_a_change_that_is_ready_early_begins_with_its_window(sound: Sound) -> None:
    audio = np.full((2, 4 * HOP), NEW, np.float32)
    with sound.lock:
        sound._goes_back = True
        sound.listener.report(2 * HOP, 2400, False)
        assert sound._join(audio, 4 * HOP) == 4 * HOP
    assert np.allclose(audio[:, HOP:], NEW)


def test_a_change_that_is_late_fades_in_over_what_is_left_of_its_window(sound: Sound) -> None:
    audio = np.full((2, 2 * HOP), NEW, np.float32)
    with sound.lock:
        sound._goes_back = True
        sound.listener.report(9 * HOP, 2400, False)
        assert sound._join(audio, 4 * HOP) == 5 * HOP
    assert np.allclose(audio[:, :HOP], OLD, atol=1e-4) and audio[0, -1] == pytest.approx(NEW)


@pytest.mark.parametrize("last, at", [(4, 5 * HOP + 700 + TRANSIT), (7, 7 * HOP)])
def test_a_change_counts_as_heard_from_where_it_fades_in_or_begins(sound: Sound, last: int, at: int) -> None:
    sent: list[Block] = []
    sound._send = sent.append
    with sound.lock:
        sound._back(4)
        sound.listener.report(5 * HOP + 700, 2400, False)
    changes = [(4, Heard(1)), (last, Heard(2))]
    sound._emit(np.full((2, 4 * HOP), NEW, np.float32), (torch.zeros(4, 64), 0, 0), (4, 4, sound.epoch), changes)
    assert [(block.position, block.heard, block.at) for block in sent] == [(4 * HOP, Heard(2), at + DELAY)]


def test_sound_is_made_again_from_the_frame_in_which_it_can_be_ready(sound: Sound) -> None:
    with sound.lock:
        sound.playing = True
        paced(sound, 0.1, 0.1)
        sound.listener.report(HOP, 2400, False)
        frame, size = sound.pace.first(HOP, HOP)
        assert sound._again() == frame == (HOP + int(sound.pace.usual_of(size) * SAMPLE_RATE)) // HOP
        sound.listener.report(13 * HOP, 2400, False)  # too near to the end for a fade
        assert sound._again() is None
        sound.playing = False


def test_the_next_window_waits_for_a_change_that_is_about_to_come(sound: Sound, source: SimpleNamespace) -> None:
    with sound.lock:
        paced(sound, 0.1, 0.1)
        sound.listener.report(10 * HOP, 0, False)
        sound._sent = 40 * HOP  # of the latest music 0.24 s are ahead, of older music more
        assert sound._spare() == round(0.14 * SAMPLE_RATE)
        source.until_laid = lambda: 0.05
        assert sound._spare() == round(0.05 * SAMPLE_RATE)
        sound._sent = 13 * HOP  # 0.12 s, which do not last
        assert sound._spare() == 0
        sound._sent, source.until_laid, source.works = 40 * HOP, lambda: 0.0, False
        assert sound._spare() == 0  # while the ring rests much is made ahead


def test_a_listener_is_where_it_says_while_what_it_hears_is_made_again(sound: Sound) -> None:
    audio = np.full((2, 4 * HOP), NEW, np.float32)
    with sound.lock:
        sound._back(4)
        sound.report(sound.epoch, 4 * HOP + 900, 2400, False)  # it has sound up to 16 frames
        assert sound.listener.position == 4 * HOP + 900
        assert sound._join(audio, 4 * HOP) == 4 * HOP + 900 + TRANSIT
        sound.report(sound.epoch, 17 * HOP, 2400, False)
        assert sound.listener.position == 16 * HOP
        sound.decoded = 16


def test_a_window_of_an_older_epoch_is_passed_over_with_what_is_behind_its_end(sound: Sound) -> None:
    audio = np.full((2, 4 * HOP), NEW, np.float32)
    sound._windows._fading = audio[:, :HOP]  # as its decode has just left it
    sound._emit(audio, (torch.zeros(5, 64), 0, 1), (16, 4, sound.epoch - 1), [(16, Heard(1))])
    assert sound.decoded == 16 and len(sound.tape.moments()) == 1
    assert sound._windows._fading is None


def test_the_time_of_a_decode_is_not_that_of_a_decoder_that_came_meanwhile(
    turbo: Model, source: SimpleNamespace
) -> None:
    runs, on, sent = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        """The VAE, whose decodes wait once music plays."""

        def __getattr__(self, name: str) -> Any:
            return getattr(turbo.pipe.vae, name)

        def decoder(self, latents: torch.Tensor) -> torch.Tensor:
            if latents.any():
                runs.set()
                on.wait(10.0)
            return turbo.pipe.vae.decoder(latents)

    source.line.add(torch.ones(50, 64), Heard(1))
    lock = threading.Condition(threading.Lock())
    made = Sound("test", Slow(), ACE_STEP, lock, lambda: source, lambda block: sent.set(), pytest.fail, 60.0)
    with lock:
        made.play(True)
    assert runs.wait(30.0)
    with lock:
        made.use(turbo.pipe.vae)
        made.play(False)
    on.set()
    assert sent.wait(30.0)
    made.close()
    assert not made.pace._known
