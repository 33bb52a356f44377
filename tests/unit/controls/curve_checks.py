"""How tests compare curves: what they are drawn from, the values they have, and the sentence that refuses one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from ostinato.engine_runtime.controls.curves import Curve
from ostinato.engine_runtime.errors import InputError

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
