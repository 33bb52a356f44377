"""Curves made of curves: arithmetic, fixed lengths, resampling, shifts, and chains of thousands."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.controls import curves
from ostinato.engine_runtime.controls.curves import Curve
from ostinato.engine_runtime.errors import InputError

from .curve_checks import numbers, refuses, same

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
