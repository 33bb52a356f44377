"""Curves against formulas written another way, and what they refuse."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.controls import curves, from_audio, points
from ostinato.engine_runtime.controls.curves import Curve
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.plots.curve import plot_curve, ticks
from scipy import signal
from scipy.interpolate import CubicHermiteSpline

from ..refusal import check_sentence

frames = st.integers(1, 400)
numbers = st.floats(-1e3, 1e3, width=32)
shares = st.floats(0, 1)


def refuses(given: str, action) -> None:
    with pytest.raises(InputError) as caught:
        action()
    check_sentence(caught.value)
    assert given in str(caught.value)


def same(curve: Curve, expected, atol: float = 1e-6) -> None:
    expected = np.asarray(expected, dtype=np.float32)
    made = curve.values(len(expected))
    assert made.dtype == np.float32 and made.flags.writeable
    np.testing.assert_allclose(made, expected, atol=atol, rtol=1e-5)


@given(numbers, frames)
def test_a_constant(value, n):
    same(curves.constant(value), [value] * n)


def test_a_ramp():
    same(curves.ramp(2, 4), np.linspace(2, 4, 26))
    same(curves.ramp(2, 4), [2])
    same(curves.ramp(1, 0, begin=0.4, until=0.6), [1.0] * 10 + [1 - k / 5 for k in range(5)] + [0.0] * 10)
    same(curves.ramp(1, 0, begin=0.4), [1.0] * 10 + [1 - k / 10 for k in range(11)])
    same(curves.ramp(1, 0, begin=5), [1.0] * 20)
    refuses("from 2 to 1 s", lambda: curves.ramp(0, 1, 2, 1))
    refuses("from 1 to 1 s", lambda: curves.ramp(0, 1, 1, 1))
    refuses("the end of a ramp is -1", lambda: curves.ramp(0, 1, 0, -1))
    refuses("the end of a ramp is 601", lambda: curves.ramp(0, 1, 0, 601))
    refuses("the beginning of a ramp is -1", lambda: curves.ramp(0, 1, -1))
    refuses("the start is nan", lambda: curves.ramp(math.nan, 1))


SHAPES = {
    "sine": lambda turns: np.cos(2 * np.pi * (turns - 0.25)),
    "triangle": lambda turns: signal.sawtooth(2 * np.pi * (turns + 0.25), width=0.5),
    "square": lambda turns: signal.square(2 * np.pi * turns),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", ["Hz", "cycles"])
def test_an_lfo_is_scipys_wave(shape, unit):
    n, rate, phase = 250, 1.7, 0.1234
    time = np.arange(n) / 25
    turns = phase + (rate * time if unit == "Hz" else rate * np.arange(n) / n)
    same(curves.lfo(shape, rate, unit, phase, low=-3, high=5), 1 + 4 * SHAPES[shape](turns), atol=1e-5)


def test_a_square_edge_falls_where_it_belongs():
    same(curves.lfo("square", 0.1), [1.0] * 125 + [0.0] * 125 + [1.0] * 125)
    same(curves.lfo("square", 3, "cycles"), ([1.0] * 7 + [0.0] * 7) * 3)


@given(st.sampled_from(curves.SHAPES), st.floats(0, 12.5), shares, numbers, numbers, st.integers(0, 2**64 - 1), frames)
def test_an_lfo_stays_between_low_and_high(shape, rate, phase, low, high, seed, n):
    made = curves.lfo(shape, rate, "Hz", phase, low, high, seed).values(n)
    slack = 1e-4 + 1e-6 * abs(high - low)
    assert made.shape == (n,) and made.min() >= min(low, high) - slack and made.max() <= max(low, high) + slack


def test_a_random_walk():
    def walk(**more):
        return curves.lfo("random", 1.5, **more)

    whole = walk(seed=7).values(15000)
    np.testing.assert_array_equal(whole, walk(seed=7).values(15000))
    np.testing.assert_array_equal(whole[:500], walk(seed=7).values(500))
    assert np.abs(whole - walk(seed=8).values(15000)).mean() > 0.1
    assert whole.min() < 0.1 and whole.max() > 0.9 and 0.4 < whole.mean() < 0.6
    # smooth: the steepest an S-curve over one cycle of 25 / 1.5 frames can be
    assert np.abs(np.diff(whole)).max() < 1.5 * curves.STEP * 1.5 / 25 + 1e-6
    assert np.abs(np.diff(whole, n=2)).max() < 6 * curves.STEP * (1.5 / 25) ** 2 * 2
    later = walk(seed=7, phase=0.5).values(500)
    assert np.abs(later[:100] - whole[:100]).max() > 1e-3


def test_a_random_walk_is_the_same_everywhere():
    """Written out: the steps are PCG64's raw 53-bit fractions, which no platform may change."""
    raw = np.random.PCG64(3).random_raw(4) >> np.uint64(11)
    draws = raw.astype(np.float64) / 2**53
    place, places = 0.0, []
    for k, draw in enumerate(draws):
        place += draw if k == 0 else (2 * draw - 1) * 0.5
        places.append(abs(place) if place < 1 else 2 - place)
    made = curves.lfo("random", 1, seed=3).values(76)
    np.testing.assert_allclose(made[::25], places, atol=1e-6)


def test_an_lfo_refuses():
    refuses("the rate is 13", lambda: curves.lfo("sine", 13))
    same(curves.lfo("square", 12.5), [1.0, 0.0] * 6)
    refuses("asked of 11 frames; allowed are 5;", lambda: curves.lfo("sine", 6, "cycles").values(11))
    assert curves.lfo("sine", 7500, "cycles").values(15000).shape == (15000,)
    refuses("the rate is 7500.5", lambda: curves.lfo("sine", 7500.5, "cycles"))
    refuses("the rate is -0.5", lambda: curves.lfo("sine", -0.5))
    refuses("the phase is 1.5", lambda: curves.lfo("sine", 1, phase=1.5))
    assert curves.lfo("random", 1, phase=1, seed=2**64 - 1).values(3).shape == (3,)
    refuses("the seed is 18446744073709551616", lambda: curves.lfo("random", 1, seed=2**64))
    same(curves.lfo("square", 6, "cycles"), [1.0, 0.0] * 6)
    refuses("the phase is -0.1", lambda: curves.lfo("sine", 1, phase=-0.1))
    refuses("the shape is 'saw'", lambda: curves.lfo("saw", 1))
    refuses("the unit is 'bpm'", lambda: curves.lfo("sine", 1, "bpm"))
    refuses("the seed is -1", lambda: curves.lfo("random", 1, seed=-1))
    refuses("high is inf", lambda: curves.lfo("sine", 1, high=math.inf))


places = st.lists(st.integers(0, 50), min_size=2, max_size=8, unique=True)


@given(places, st.data(), frames)
def test_points_are_met_and_lines_are_numpys(xs, data, n):
    table = [(x / 50, data.draw(shares)) for x in xs]
    at = np.linspace(0, 1, n)
    line = np.interp(at, *zip(*sorted(table), strict=True))
    same(points.through(table, "linear", -1, 3), 4 * line - 1, atol=1e-5)
    same(points.through(table, "linear", 0, 1), line)
    smooth = points.through(table).values(51)
    for x, y in table:
        assert smooth[round(50 * x)] == pytest.approx(y, abs=1e-5)


@given(places, st.data())
def test_a_monotone_cubic_never_overshoots(xs, data):
    table = np.array(sorted((x / 50, data.draw(shares)) for x in xs))
    made = points.through(table.tolist()).values(1001)
    at = np.linspace(0, 1, 1001)
    for (x0, y0), (x1, y1) in zip(table[:-1], table[1:], strict=True):
        part = made[(at >= x0) & (at <= x1)]
        assert part.min() >= min(y0, y1) - 1e-5 and part.max() <= max(y0, y1) + 1e-5
        assert (np.diff(part) * np.sign(y1 - y0) >= -1e-5).all()


def test_a_monotone_cubic_by_hand():
    """Equal steps up: slopes are the secants' means, so a straight line stays straight; a peak has slope 0."""
    same(points.through([[0, 0], [0.5, 0.5], [1, 1]]), np.linspace(0, 1, 33))
    t = np.linspace(0, 1, 9)
    up = 2 * t * (t - 1) ** 2 / 2 - 2 * t**3 + 3 * t**2  # a slope of 2 at the start, 0 at the peak, half a unit wide
    same(points.through([[0, 0], [0.5, 1], [1, 0]]), [*up, *up[-2::-1]])
    # 0.2 and 1.8 mean a slope of 1 in the middle, five secants of the first interval: shortened with the 0.2 before it
    # to 3 secants together, 0.6 / sqrt(26) and 3 / sqrt(26); the second interval is then within its limit
    early, middle, late = 0.6 / math.sqrt(26), 3 / math.sqrt(26), 1.8
    first = CubicHermiteSpline([0, 0.5], [0, 0.1], [early, middle])(np.linspace(0, 0.5, 9))
    second = CubicHermiteSpline([0.5, 1], [0.1, 1], [middle, late])(np.linspace(0.5, 1, 9))
    same(points.through([[0, 0], [0.5, 0.1], [1, 1]]), [*first, *second[1:]])


def test_a_monotone_cubic_over_a_knee_is_flat_behind_it():
    """A slope of 0 at the knee. Secants 4.5, 0.5 and 0; 2.5 in the middle is shortened to three of the second's."""
    knee = [[0, 0], [0.1, 0.45], [0.2, 0.5], [1, 0.5]]
    first = CubicHermiteSpline([0, 0.1], [0, 0.45], [4.5, 1.5])(np.linspace(0, 0.1, 11))
    second = CubicHermiteSpline([0.1, 0.2], [0.45, 0.5], [1.5, 0])(np.linspace(0.1, 0.2, 11))
    same(points.through(knee), [*first, *second[1:], *[0.5] * 80], atol=1e-7)


def test_a_jump_between_slopes_breaks_neither():
    jump = points.through([[0, 0], [0.5, 0.2], [0.5, 0.8], [1, 1]]).values(100)
    at = np.linspace(0, 1, 100)
    first = CubicHermiteSpline([0, 0.5], [0, 0.2], [0.4, 0])(at[:50])
    second = CubicHermiteSpline([0.5, 1], [0.8, 1], [0, 0.4])(at[50:])
    np.testing.assert_allclose(jump, [*first, *second], atol=1e-6)


@pytest.mark.parametrize("mode", points.INTERPOLATIONS)
def test_a_jump_at_an_end_is_seen_there(mode):
    edges = [[0, 0.2], [0, 0.8], [1, 0.8], [1, 0.1]]
    made = points.through(edges, mode).values(9)
    np.testing.assert_allclose(made[1:-1], [0.8] * 7, atol=1e-6)
    assert made[-1] == np.float32(0.1) and (mode == "linear" or made[0] == np.float32(0.2))


def test_seconds_are_whole_frames():
    assert [curves.frames_in(s) for s in (0, 0.001, 0.04, 0.061, 2, 600)] == [0, 1, 1, 2, 50, 15_000]
    assert curves.frames_in(2, rate=10.0) == 20
    refuses("the length is -1", lambda: curves.frames_in(-1))
    refuses("the length is 601", lambda: curves.frames_in(601))


def test_few_and_odd_points():
    for mode in points.INTERPOLATIONS:
        same(points.through([[0.3, 0.7]], mode), [0.7] * 5)
        same(points.through([[0.5, 1.0], [0.25, 0.0]], mode), [0, 0, 1, 1, 1])
        jump = points.through([[0, 0.2], [0.5, 0.2], [0.5, 0.8], [1, 0.8]], mode).values(100)
        np.testing.assert_allclose(jump, [0.2] * 50 + [0.8] * 50, atol=1e-6)
        refuses("not pairs", lambda mode=mode: points.through([], mode))
        refuses("outside the frame", lambda mode=mode: points.through([[0, 0], [1, 1.5]], mode))
        refuses("outside the frame", lambda mode=mode: points.through([[math.nan, 0]], mode))
        refuses("outside the frame", lambda mode=mode: points.through([[-0.5, 0]], mode))
        refuses("has 15001 points", lambda mode=mode: points.through([[0.5, 0.5]] * 15_001, mode))
        same(points.through([[0.5, 0.5]] * 15_000, mode), [0.5] * 3)
    for odd in ("ab", None, [1, 2], [[1, 2, 3]], [["a", "b"]], [[0, 0], [1]], {"x": 1}):
        refuses("not pairs", lambda odd=odd: points.through(odd))
    refuses("the interpolation is 'cubic'", lambda: points.through([[0, 0]], "cubic"))


PLAIN = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "minimum": lambda a, b: min(a, b),
    "maximum": lambda a, b: max(a, b),
    "mix": lambda a, b: 0.7 * a + 0.3 * b,
}


@pytest.mark.parametrize("operation", curves.OPERATIONS)
def test_arithmetic(operation):
    a, b = [1.0, -2.0, 0.0, 4.0], [3.0, 0.5, -1.0, 2.5]
    expected = [PLAIN[operation](x, y) for x, y in zip(a, b, strict=True)]
    same(curves.arithmetic(curves.fixed(a), curves.fixed(b), operation, 0.3), expected)
    same(curves.arithmetic(curves.fixed(a), 2.0, operation, 0.3), [PLAIN[operation](x, 2.0) for x in a])
    same(curves.arithmetic(3, curves.fixed(b), operation, 0.3), [PLAIN[operation](3, x) for x in b])


def test_a_mix_along_a_curve():
    amount = curves.fixed([0.0, 0.5, 1.0])
    same(curves.arithmetic(2, 4, "mix", amount), [2, 3, 4])
    assert curves.arithmetic(2, 4, "mix", amount).frames == 3
    same(curves.arithmetic(2, 4, "mix"), [3, 3])


def test_arithmetic_refuses():
    ramp = curves.ramp(-1, 1)
    refuses("divides by 0 at 0.04 s", lambda: curves.arithmetic(1, ramp, "divide").values(3))
    same(curves.arithmetic(1, ramp, "divide"), [-1, 1])
    huge = curves.arithmetic(curves.fixed([0, 1, 1e30]), 1e30, "multiply")
    refuses("NaN or infinite at 0.08 s", lambda: huge.values(3))
    refuses("the operation is 'power'", lambda: curves.arithmetic(1, 2, "power"))
    two = curves.fixed([1, 2]), curves.fixed([1, 2, 3])
    refuses("the curves have 2 and 3 frames", lambda: curves.arithmetic(*two, "add"))
    refuses("2 and 4 frames", lambda: curves.arithmetic(*two, "mix", curves.fixed([1, 2, 3, 4])))
    refuses("the value is nan", lambda: curves.arithmetic(1, math.nan, "add"))


@given(st.lists(numbers, min_size=1, max_size=50))
def test_a_fixed_curve_has_one_length(values):
    curve = curves.fixed(values)
    same(curve, values)
    assert curve.frames == len(values)
    n = len(values)
    with pytest.raises(
        InputError, match=rf"{n} frames \({n / 25:g} s\).*{n + 1} frames \({(n + 1) / 25:g} s\).*Curve Resample"
    ):
        curve.values(n + 1)


def test_a_fixed_curve_is_not_changed_from_outside():
    values = np.ones(3)
    curve = curves.fixed(values)
    values[0] = 9
    curve.values(3)[1] = 9
    same(curve, [1, 1, 1])


def test_fixed_refuses():
    refuses("shape [2, 2]", lambda: curves.fixed(np.ones((2, 2))))
    refuses("shape [0]", lambda: curves.fixed([]))
    refuses("shape [15001]", lambda: curves.fixed(np.zeros(15_001)))
    assert curves.fixed(np.zeros(15_000)).frames == 15_000
    refuses("NaN or infinity", lambda: curves.fixed([0, math.inf]))


def test_resample():
    curve = curves.fixed([0, 1, 4])
    same(curves.resample(curve), [0, 0.5, 1, 2.5, 4])
    same(curves.resample(curve), [0, 4])
    same(curves.resample(curve), [0, 1, 4])
    assert curves.resample(curve).frames is None
    ramp = curves.ramp(0, 2, until=0.08)  # reaches its end at frame 2
    same(curves.resample(ramp), [0, 1, 2, 2, 2])
    same(curves.resample(ramp, 3), [0, 0.5, 1, 1.5, 2])
    same(curves.resample(curves.fixed([5])), [5, 5, 5])
    refuses("the length of a curve", lambda: curves.resample(ramp, 10**9))
    refuses("NaN or infinite", lambda: curves.resample(curves.constant(1e300), 3).values(3))


def test_shift():
    curve = curves.fixed([0, 1, 2, 3])
    same(curves.shift(curve, 0.08), [0, 0, 0, 1])
    same(curves.shift(curve, -0.04), [1, 2, 3, 3])
    same(curves.shift(curve, 0.08, "wrap"), [2, 3, 0, 1])
    same(curves.shift(curve, -0.04, "wrap"), [1, 2, 3, 0])
    same(curves.shift(curve, 0.02), [0, 0.5, 1.5, 2.5])
    same(curves.shift(curve, 0.02, "wrap"), [1.5, 0.5, 1.5, 2.5])
    same(curves.shift(curve, 1), [0, 0, 0, 0])
    assert curves.shift(curve, 1).frames == 4
    same(curves.shift(curves.lfo("sine", 1), 0.2), [*[0.5] * 5, *curves.lfo("sine", 1).values(20)])
    refuses("the edges is 'zero'", lambda: curves.shift(curve, 1, "zero"))
    refuses("the shift is nan", lambda: curves.shift(curve, math.nan))


@pytest.mark.parametrize("step", [lambda c: curves.shift(c, 0.04), lambda c: curves.arithmetic(c, 1, "add")])
def test_thousands_in_a_chain(step):
    curve = curves.ramp(0, 1)
    for _ in range(2000):
        curve = step(curve)
    assert curve.values(9).shape == (9,)


def test_a_part_that_is_used_twice_is_made_once():
    """Each of 60 made twice would be 2^60."""
    asked = []
    start = curve = Curve(lambda times: asked.append(times.frames) or np.arange(times.frames, dtype=np.float64))
    for _ in range(60):
        curve = curves.arithmetic(curve, curve, "mix", 0.25)
    same(curve, [0, 1, 2, 3])
    same(curves.arithmetic(curve, curves.resample(start, 2), "add"), [0, 4 / 3, 8 / 3, 4])
    assert asked == [4, 4, 2] or asked == [4, 2, 4]


def test_a_part_is_kept_until_its_last_use_only():
    curve = curves.ramp(0, 1)
    for _ in range(300):
        curve = curves.shift(curve, 0.04)
    tracemalloc.start()
    curve.values(15000)
    assert tracemalloc.get_traced_memory()[1] < 10e6  # 300 of 120 kB are 36 MB
    tracemalloc.stop()


def test_a_curve_of_too_many():
    curve = curves.ramp(0, 1)
    for _ in range(curves.MAX_CURVES - 1):
        curve = curves.shift(curve, 0.04)
    assert curve.values(2).shape == (2,)
    refuses("more curves than can be drawn", lambda: curves.shift(curve, 0.04).values(2))


def test_a_length_that_is_none():
    for n in (0, -1, 15001, 2.5):
        refuses("the length of a curve", lambda n=n: curves.constant(1).values(n))
    assert curves.constant(1).values(15000).shape == (15000,)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 10))
def test_marks_are_round_and_even(low, span, count):
    made = ticks(low, low + span, count)
    assert len(made) <= count + 1
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= mark <= low + span + slack for mark in made)
    if len(made) > 1:
        step = (made[-1] - made[0]) / (len(made) - 1)
        lead = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(lead - k) for k in (1, 2, 5, 10)) < 1e-2


def pixels(image, colour: str):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.abs(image[0].numpy() - wanted).max(axis=-1) < 0.02


def test_a_picture_shows_the_curve_and_the_sound():
    from ostinato.engine_runtime.plots.curve import WAVE
    from ostinato.engine_runtime.plots.plot import BOTTOM, LEFT, LINE, RIGHT, TOP

    image = plot_curve(np.linspace(0, 1, 100, dtype=np.float32))
    assert image.shape == (1, 320, 720, 3) and not pixels(image, WAVE).any()
    line = pixels(image, LINE)
    assert not line[:, :LEFT].any() and not line[:TOP].any() and not line[BOTTOM:].any()
    for share in (0.25, 0.5, 0.75):  # rows count downwards
        column = line[:, round(LEFT + share * (RIGHT - LEFT))]
        assert np.flatnonzero(column).mean() == pytest.approx(BOTTOM - share * (BOTTOM - TOP), abs=6)

    sound = np.zeros((2, 4000), dtype=np.float32)
    sound[1, 2000:] = np.tile([0.5, -0.5], 1000)  # 4 s at 1 kHz, the second half loud in one channel
    wave = pixels(plot_curve(np.zeros(100, dtype=np.float32), sound, 1000), WAVE)
    half = (LEFT + RIGHT) // 2
    assert wave[:, half + 10 : RIGHT - 10].sum() > 50 * wave[:, LEFT + 10 : half - 10].sum()
    shorter = pixels(plot_curve(np.zeros(200, dtype=np.float32), sound, 1000), WAVE)
    assert not shorter[:, half + 10 :].any() and shorter[:, half - 100 : half - 10].any()


@pytest.mark.parametrize("values", [[3.0], [0.0] * 5, [1e-38, 3e-38], [-3e38, 3e38], list(range(15000))])
def test_any_curve_can_be_drawn(values):
    from ostinato.engine_runtime.plots.plot import LINE

    assert pixels(plot_curve(np.array(values, dtype=np.float32)), LINE).sum() > 500


def test_no_pulse_is_lost_in_a_long_curve():
    from ostinato.engine_runtime.plots.plot import LINE, TOP

    values = np.zeros(15000, dtype=np.float32)
    values[7321] = 1
    assert pixels(plot_curve(values), LINE)[TOP : TOP + 20].any()


TIMED = {
    "constant": lambda: curves.constant(2.0),
    "sine in Hz": lambda: curves.lfo("sine", 0.37, phase=0.2),
    "random in Hz": lambda: curves.lfo("random", 1.3, seed=4),
    "ramp in seconds": lambda: curves.ramp(1.0, 3.0, 2.0, 9.0),
    "beats": lambda: from_audio.beat_grid(97.0, 3, 0.5, 300.0),
    "sum": lambda: curves.arithmetic(curves.lfo("square", 0.7), curves.lfo("triangle", 0.1), "add"),
}
WHOLE = {
    "drawn": lambda: points.through([[0, 0.2], [0.5, 0.9], [1, 0.1]]),
    "cycles": lambda: curves.lfo("sine", 3, "cycles", 0.1),
    "ramp to the end": lambda: curves.ramp(0.0, 1.0, 0.5),
    "measured": lambda: curves.fixed(np.linspace(0.0, 1.0, 50) ** 2),
    "stretched": lambda: curves.resample(curves.fixed(np.linspace(0.0, 1.0, 20) ** 2)),
    "product": lambda: curves.arithmetic(curves.lfo("sine", 2, "cycles"), curves.ramp(1.0, 2.0), "multiply"),
}


@pytest.mark.parametrize("name", TIMED)
@given(start=st.integers(0, 400))
def test_what_is_told_in_time_goes_on_while_music_plays(name, start):
    """A later window is a piece of one long curve."""
    curve = TIMED[name]()
    np.testing.assert_allclose(curve.values(50, start=start), curve.values(450)[start : start + 50], atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
@given(start=st.integers(0, 400))
def test_what_is_told_over_the_whole_length_comes_again(name, start):
    curve = WHOLE[name]()
    np.testing.assert_allclose(curve.values(50, start=start), np.roll(curve.values(50), -start % 50), atol=1e-6)


@pytest.mark.parametrize("seconds", [0.4, 1.03, -0.7])
def test_a_shift_has_no_edges_while_music_plays(seconds):
    moved, plain = curves.shift(curves.lfo("sine", 0.37), seconds), curves.lfo("sine", 0.37)
    want = np.interp(np.arange(200, 250) - seconds * 25, np.arange(450), plain.values(450))
    np.testing.assert_allclose(moved.values(50, start=200)[:-1], want[:-1], atol=1e-5)


@pytest.mark.parametrize("name", [*TIMED, *WHOLE])
def test_play_begins_with_the_curve_itself(name):
    curve = (TIMED | WHOLE)[name]()
    np.testing.assert_array_equal(curve.values(50, start=0), curve.values(50))
