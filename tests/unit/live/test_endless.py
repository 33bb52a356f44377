"""Music that goes on without repeat, on the built-in model: no seam stands out, tempo and level hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.live.line import Endless, Heard
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import Model, load
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.tools.tiny.detect import regularity, tempo, tempo_ok

pytestmark = pytest.mark.slow
STRETCHES = 7
HOP = ACE_STEP.hop
BPM = 110


@pytest.fixture(scope="module")
def tiny(cache: None) -> Model:
    return load("tiny", torch.device("cpu"), torch.float32)


def played(score: Score, cut: bool) -> tuple[torch.Tensor, list[int]]:
    """Lay stretches end to end: the line `[T, 64]`, and where they join. `cut` leaves out what joins them."""
    line, seams = Endless(1 << 20, 64), list[int]()
    with runtime().playing(f"endless {cut}", score.engine, score.config()) as session:
        for number in range(STRETCHES):
            at = line.end
            tail = line.tail(at)[-score.tail :] if at and not cut else None
            (finished,) = session.play([score.request(number, tail)])
            kept = score.tail if at else 0
            if tail is not None:
                torch.testing.assert_close(finished.take()[:kept], tail, atol=1e-5, rtol=0)
            line.add(finished.take(), kept, at, at, Heard())
            seams += [at] if at else []
    return line.frames, seams


def flux(audio: np.ndarray) -> np.ndarray:
    """How much the log spectrum rises in each hundredth of a second."""
    size, hop = 1024, 480
    window, mono = np.hanning(size), audio.mean(0)
    starts = range(0, len(mono) - size, hop)
    spectrum = np.log1p(100 * np.abs(np.stack([np.fft.rfft(window * mono[i : i + size]) for i in starts])))
    return np.maximum(np.diff(spectrum, axis=0), 0).sum(1)


def ranks(audio: np.ndarray, seams: list[int]) -> np.ndarray:
    """Where the change at each seam stands among the changes of all spans as long: 0 is the least, 1 the most."""
    found = flux(audio)
    spans = np.array([found[i : i + 12].max() for i in range(20, len(found) - 20, 7)])
    return np.array([(spans < found[4 * seam - 6 : 4 * seam + 6].max()).mean() for seam in seams])


def pulse(audio: np.ndarray, seams: list[int]) -> float:
    """How regular the beat is across the seams, as a share of how regular it is between them."""
    across = [regularity(audio[:, HOP * (seam - 75) : HOP * (seam + 75)]) for seam in seams]
    between = [regularity(audio[:, HOP * (seam + 10) : HOP * (seam + 115)]) for seam in seams[:-1]]
    return float(np.mean(across) / np.mean(between))


@pytest.mark.parametrize("cut", [False, True])
def test_stretches_join_as_if_they_were_one(tiny: Model, cut: bool) -> None:
    """With the music before as its source a stretch goes on with it; without, the same measure finds every joint."""
    condition = encode_prompt(tiny, Prompt("funk, drums, bass, electric piano", seconds=10.0, bpm=BPM))
    score = Score(eager_engine(tiny), tiny.pipe.vae, condition, Sampling(), mode="endless", depth=1)
    frames, seams = played(score, cut)
    audio = decode(tiny.pipe.vae, frames[None], 250)[0].numpy()
    assert (pulse(audio, seams) < 0.88) == cut
    if cut:
        return
    assert ranks(audio, seams).mean() < 0.75
    for start in range(0, audio.shape[1] - 480_000, 480_000):
        assert tempo_ok(tempo(audio[:, start : start + 480_000]), BPM), start
    level = np.array([np.sqrt((part**2).mean()) for part in np.array_split(audio, 8, axis=1)])
    assert level.max() < 1.5 * level.min()
