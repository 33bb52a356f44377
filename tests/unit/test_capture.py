"""While anything is captured no garbage is collected; afterwards it is again, unless somebody had switched it off."""

import gc
import threading

import pytest
from ostinato.engine_runtime.capture import uncollected


@pytest.fixture(autouse=True)
def as_before():
    on = gc.isenabled()
    yield
    (gc.enable if on else gc.disable)()


def test_it_comes_back_with_the_last_that_leaves():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with uncollected:
            inside.set()
            leave.wait(10)

    gc.enable()
    thread = threading.Thread(target=other)
    with uncollected:
        thread.start()
        assert inside.wait(10) and not gc.isenabled()
    assert not gc.isenabled(), "the other one still captures"
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_it_comes_back_after_a_failure():
    gc.enable()
    with pytest.raises(ValueError), uncollected:
        raise ValueError
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off():
    gc.disable()
    with uncollected:
        pass
    assert not gc.isenabled()
