"""Loudness and beats of audio, at the latent rate. Torch-free.

Audio is `[channels, samples]` float, at any sample rate. Channels are never summed, since they may cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError, InputError, check_range, check_whole
from ..spec import ACE_STEP, ModelSpec
from .curves import MAX_SECONDS, Curve, Times, fixed
from .tempo import FLUX_HZ, MAX_BPM, MIN_BPM, is_regular, kick_period, likely_period

Array = NDArray[Any]

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_MS = 60_000.0

TRACK_RATE = 16_000  # Hz, what beats are looked for in
WINDOW = 512  # samples of one spectrum at TRACK_RATE
LAG = 0.010  # s, from the centre of the window in which the spectrum changes most to the onset that enters it
LOW, MIDDLE = slice(1, 6), slice(6, 30)  # bins of a kick, 16 to 172 Hz, and of a snare's body, to 922 Hz
AUDIBLE = 30.0  # least strength of an onset of one channel; changes of held tones have up to 27
OFF_TEMPO = 0.15  # of a beat: farther off, the first or last one is an accident
TIGHTNESS = 100.0  # how much a beat off the tempo costs, against onsets of unit deviation (Ellis 2007)


@dataclass(frozen=True)
class Beats:
    """The beats of a clip.

    Attributes:
        bpm: beats a minute.
        times: seconds, `[beats]`.
    """

    bpm: float
    times: Array


def frames_of(samples: int, sample_rate: int, spec: ModelSpec = ACE_STEP) -> int:
    """Count the latent frames that a clip encodes to; a rest at the end that fills no frame is dropped."""
    return max(1, math.ceil(samples * spec.sample_rate / sample_rate) // spec.hop)


def envelope(audio: Array, sample_rate: int, attack: float, release: float, spec: ModelSpec = ACE_STEP) -> Curve:
    """Measure the loudness of a clip: the RMS of each frame, smoothed, scaled to a peak of 1. Silence gives zeros.

    Args:
        attack: time constant in ms while it gets louder; 0 follows at once.
        release: time constant in ms while it gets quieter.
        spec: of the model whose frames are measured.
    """
    samples = checked(audio, sample_rate)
    for name, value in (("attack", attack), ("release", release)):
        check_range(f"the {name}", value, 0, MAX_MS, "give milliseconds")
    frames = frames_of(samples.shape[1], sample_rate, spec)
    power = np.square(samples, dtype=np.float64).mean(axis=0)
    edges = np.round(np.arange(frames + 1) * sample_rate / spec.frame_rate).astype(np.int64).clip(max=len(power))
    sums = np.concatenate([[0.0], np.cumsum(power)])
    loudness = np.sqrt(np.diff(sums[edges]) / np.diff(edges))
    up, down = _share(attack, spec.frame_rate), _share(release, spec.frame_rate)
    level, followed = 0.0, np.empty(frames)
    for i, now in enumerate(loudness):
        level += (now - level) * (up if now > level else down)
        followed[i] = level
    peak = followed.max()
    return fixed(followed / peak if peak > 0 else followed)


def pulses(times: Array, frames: int, decay: float, rate: float = ACE_STEP.frame_rate) -> Array:
    """Make pulses `[frames]` float64: 1 at the frame nearest to each time (s), then falling by a factor of e per
    `decay` ms.
    """
    check_range("the decay", decay, 0, MAX_MS, "give milliseconds")
    at = np.unique(np.round(np.asarray(times, dtype=np.float64) * rate)).astype(np.int64)
    index = np.arange(frames)
    last = np.searchsorted(at, index, side="right") - 1
    since = (index - at[last.clip(min=0)]) / rate * 1e3 if len(at) else index
    fall = np.exp(-since / decay) if decay > 0 else (since == 0).astype(np.float64)
    return np.where(last >= 0, fall, 0.0)


def beat_grid(bpm: float, every: int, offset: float, decay: float) -> Curve:
    """Make a pulse every `every` beats of a steady tempo, the first one after `offset` seconds; it fits any length."""
    check_range("the tempo", bpm, MIN_BPM, MAX_BPM, "give beats a minute")
    check_whole("every", every, 1, 64, "give a number of beats")
    check_range("the offset", offset, -MAX_SECONDS, MAX_SECONDS, "give seconds")
    check_range("the decay", decay, 0, MAX_MS, "give milliseconds")
    period = every * 60.0 / bpm

    def make(times: Times) -> Array:
        start, rate = times.start or 0, times.rate
        found = np.round(_grid(period, offset, (start + times.frames) / rate) * rate)
        falling = max(0, int(np.searchsorted(found, start)) - 1)  # the pulse before still falls
        return pulses((found[falling:] - start) / rate, times.frames, decay, rate)

    return Curve(make)


def _grid(period: float, offset: float, seconds: float) -> Array:
    """List the times of pulses from 0 on; an offset below 0 skips those before the start."""
    first = math.ceil(-offset / period) if offset < 0 else 0
    return offset + period * np.arange(first, math.ceil((seconds - offset) / period))


def beat_curve(
    beats: Beats, frames: int, every: int, offset: float, decay: float, rate: float = ACE_STEP.frame_rate
) -> Curve:
    """Make a pulse at every `every`-th beat that was found, all moved by `offset` seconds; it has the length of the
    clip.
    """
    check_whole("every", every, 1, 64, "give a number of beats")
    check_range("the offset", offset, -MAX_SECONDS, MAX_SECONDS, "give seconds")
    times = beats.times[::every] + offset
    return fixed(pulses(times[times >= 0], frames, decay, rate))


@dataclass(frozen=True)
class Onsets:
    """Onset strengths of a clip, `[frames]` float64, `FLUX_HZ` a second.

    Attributes:
        flux: the gain of the log spectrum, over all bands.
        low, middle: the gain of the spectrum where a kick and where a snare has its body; its largest bin is 1.
        channels: how many are not silent.
    """

    flux: Array
    low: Array
    middle: Array
    channels: int

    @property
    def audible(self) -> bool:
        """Return true for 2 s or more with a stroke among them."""
        return len(self.flux) >= 2 * FLUX_HZ and self.flux.max() > AUDIBLE * self.channels

    @property
    def kicks(self) -> Array:
        """Return the flux as far as the low band gains within 30 ms of it."""
        from scipy.ndimage import maximum_filter1d

        return self.flux * maximum_filter1d(self.low, 7)


def find_beats(audio: Array, sample_rate: int, bpm: float = 0.0) -> Beats:
    """Find the beats of a clip by dynamic programming over onset strength.

    After D. Ellis, "Beat Tracking by Dynamic Programming", JNMR 36(1), 2007: spectral flux, the tempo at which it
    repeats, and the chain of strong frames about one beat apart. A kick on each beat says its tempo itself. It assumes
    one steady tempo.

    Args:
        bpm: the tempo, if known; 0 finds it, between 40 and 240.

    Raises:
        InputError: for music without a beat: silence, held tones, strokes that do not repeat, and clips too short to
            hold two beats.
    """
    if bpm:
        check_range("the tempo", bpm, MIN_BPM, MAX_BPM, "give beats a minute, or 0 to find it")
    heard = onsets(audio, sample_rate)
    if heard.audible:
        likely = 60.0 * FLUX_HZ / bpm if bpm else likely_period(heard.flux)
        kick = None if bpm else kick_period(heard.low, heard.middle, likely)
        period = kick or likely
        at = _chain(heard.flux if kick is None else heard.kicks, period)
        if bpm or is_regular(heard.flux, period, at):
            found = bpm or 60.0 * FLUX_HZ * (len(at) - 1) / float(at[-1] - at[0])
            return Beats(found, at / FLUX_HZ + LAG)
    raise InputError(
        f"no beat was found in {np.shape(audio)[1] / sample_rate:.2g} s of audio",
        "a clip of 2 s or more with strokes that repeat is needed",
        "give another clip, or the tempo and no audio",
    )


def onsets(audio: Array, sample_rate: int) -> Onsets:
    """Measure spectral flux, 100 times a second: the gain of the spectrum, summed over bands and channels."""
    from scipy.fft import rfft
    from scipy.signal import resample_poly

    samples = checked(audio, sample_rate)
    common = math.gcd(TRACK_RATE, sample_rate)
    hop = TRACK_RATE // FLUX_HZ
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    bands: list[list[Array]] = []
    for channel in samples:
        resampled = resample_poly(channel, TRACK_RATE // common, sample_rate // common)
        padded = np.pad(
            resampled, (WINDOW // 2 + hop, WINDOW // 2)
        )  # a frame of silence first, so that frame 0 can gain
        cut = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
        loud = np.abs(rfft(cut * window, axis=1))
        peak = loud.max()
        if peak > 0:
            flux, plain = _gain(np.log1p(loud * (1e2 / peak))), _gain(loud / peak)
            bands.append([band.sum(axis=1, dtype=np.float64) for band in (flux, plain[:, LOW], plain[:, MIDDLE])])
    if not bands:
        nothing = np.zeros(max(1, samples.shape[1] * FLUX_HZ // sample_rate))
        return Onsets(nothing, nothing, nothing, 0)
    flux, low, middle = (sum(channels) for channels in zip(*bands, strict=True))
    return Onsets(_begun(flux), _begun(low), _begun(middle), len(bands))


def _gain(spectra: Array) -> Array:
    return np.maximum(np.diff(spectra, axis=0), 0.0)


def _begun(strength: Array) -> Array:
    """Lower the first frames: that a clip begins is an onset too, but tells less than the others."""
    edge = math.ceil(WINDOW * FLUX_HZ / TRACK_RATE)
    strength[:edge] = np.minimum(strength[:edge], 0.5 * strength[edge:].max(initial=0.0))
    return strength


def _chain(flux: Array, period: float) -> Array:
    """Return the frames of the best chain of beats, in order."""
    from scipy.ndimage import gaussian_filter1d

    strength = gaussian_filter1d(flux / flux.std(), period / 32.0)
    nearest, farthest = round(period / 2), round(period * 2)
    steps = np.arange(farthest, nearest - 1, -1)
    cost = TIGHTNESS * np.log(steps / period) ** 2
    score, before = strength.copy(), np.full(len(strength), -1)
    for t in range(nearest, len(strength)):
        usable = steps <= t
        reached = score[t - steps[usable]] - cost[usable]
        best = int(np.argmax(reached))
        if reached[best] > 0:
            score[t] += reached[best]
            before[t] = t - steps[usable][best]
    chain = [int(np.argmax(score))]
    while before[chain[-1]] >= 0:
        chain.append(int(before[chain[-1]]))
    return _trimmed(np.array(chain[::-1]), strength, period)


def _trimmed(beats: Array, strength: Array, period: float) -> Array:
    """Drop false beats at both ends: those in silence, and those off the tempo, such as the onset of the clip's
    beginning.
    """
    loud = np.flatnonzero(strength[beats] > 0.1 * strength[beats].mean())
    beats = beats[loud[0] : loud[-1] + 1] if len(loud) else beats
    steady = np.abs(np.diff(beats) - period) <= OFF_TEMPO * period
    if not steady.any():
        return beats
    kept = np.flatnonzero(steady)
    return beats[kept[0] : kept[-1] + 2]


def _share(ms: float, rate: float) -> float:
    """Return the share of the way that a follower with this time constant goes in one frame."""
    return 1.0 - math.exp(-1e3 / rate / ms) if ms > 0 else 1.0


def checked(audio: Array, sample_rate: int) -> Array:
    """Check a clip and return it as `[channels, samples]` float32.

    Raises:
        AudioError: for another shape, a sample rate or length out of range, NaN or infinity.
    """
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise AudioError(f"the sample rate is {sample_rate} Hz", f"allowed is {MIN_RATE} to {MAX_RATE}", "resample it")
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 2 or 0 in samples.shape:
        raise AudioError(f"the audio has shape {list(samples.shape)}", "allowed is [channels, samples]", "give a clip")
    if samples.shape[1] > MAX_SECONDS * sample_rate:
        raise AudioError(
            f"the audio is {samples.shape[1] / sample_rate:g} s long", f"allowed is {MAX_SECONDS} s", "trim it"
        )
    if not np.isfinite(samples).all():
        raise AudioError("the audio holds NaN or infinity", "only finite samples are allowed", "export it again")
    return samples
