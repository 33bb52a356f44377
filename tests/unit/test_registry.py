"""One object of each class in a process, and no state beside it in the modules that keep to that."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import threading
from collections import Counter, deque

import pytest
from ostinato.engine_runtime import bench, profile, trt
from ostinato.engine_runtime.registry import Registry

from .. import locks

STATE = (dict, list, set, Counter, deque, bytearray, locks.Watched, itertools.count)


class Thing:
    made = 0

    def __init__(self):
        type(self).made += 1


def test_there_is_one_of_a_class_however_many_ask():
    here, found = Registry(), []
    threads = [threading.Thread(target=lambda: found.append(here.one(Thing))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Thing.made == 1 and set(found) == {here.one(Thing)} and here.one(Counter) is not here.one(Thing)


def test_a_test_has_its_own_and_gives_it_back():
    here = Registry()
    before = here.one(Thing)
    with pytest.raises(KeyError), here.fresh(Thing, Counter):
        assert here.one(Thing) is not before
        here.one(Counter)["x"] += 1
        raise KeyError
    assert here.one(Thing) is before and not here.one(Counter)


def modules():
    for package in (trt, profile, bench):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("library.child"):  # a script
                yield found.name
    yield "ostinato.engine_runtime.device.capture"
    yield "ostinato.engine_runtime.stream.sessions"


@pytest.mark.parametrize("name", list(modules()))
def test_no_module_has_state_of_its_own(name):
    """Constants are in capitals; whatever else could change belongs to the registry."""
    module = importlib.import_module(name)
    found = {key: value for key, value in vars(module).items() if isinstance(value, STATE) and not key.startswith("__")}
    assert [key for key in found if key != key.upper()] == []
