"""Nodes run as ComfyUI runs them, and what stands in for builds and refits; fixtures are in `conftest.py`."""

from __future__ import annotations

from types import SimpleNamespace

from ostinato.engine_runtime.trt.build.job import State
from ostinato.engine_runtime.trt.files.spec import DEFAULT_PROFILE, KINDS
from ostinato.engine_runtime.trt.files.trust import Trust

from ...engine_files import made_up, put

ASKED = {"action": "build", "what": KINDS[0], "flavor": "rtx", "precision": "auto", "lora": False, "refittable": False}
ASKED |= {"name": "", "wait": False, **DEFAULT_PROFILE}


def run(node, unique_id="7", **inputs):
    """As ComfyUI runs it: on a clone of the class."""
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": unique_id}}).execute(**inputs)


def fingerprint(node, unique_id="7", **inputs):
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": unique_id}}).fingerprint_inputs(**inputs)


class FakeJob:
    """A build that goes as far as it is told."""

    started: list[FakeJob] = []
    halves = False  # whether it is half done for a while

    def __init__(self, spec, folder, changed):
        self.spec, self.folder, self.changed = spec, folder, changed
        self.state, self.fraction, self.message, self.error, self.plan = State.exporting, 0.25, "exporting", None, None

    @classmethod
    def start(cls, spec, folder, changed):
        cls.started.append(cls(spec, folder, changed))
        return cls.started[-1]

    @property
    def over(self):
        return self.state in (State.done, State.failed, State.cancelled)

    def ends(self, state, error=None):
        self.state, self.error, self.fraction = state, error, 1.0
        if state is State.done:
            self.plan = put(self.folder, *made_up(self.spec.name, spec=self.spec), Trust())
        self.changed(self)

    def wait(self, timeout):
        """Goes a step further: half way, then to its end."""
        if self.halves and self.fraction < 0.5:
            self.fraction = 0.5
        else:
            self.ends(State.done)

    def cancel(self):
        if not self.over:
            self.ends(State.cancelled)
        return self.state


def passes(plan, **given):
    """An engine's check that finds nothing, and keeps no figures."""
    return SimpleNamespace(proof=None)


class FakeRefit:
    """Writes nothing, and asks for the proof."""

    fails = False

    def __init__(self, engine, flavor, errors, source, lane):
        self.engine, self.changed = engine, frozenset()

    def apply(self, mix, prove):
        self.changed = frozenset(mix and ["a weight"])
        try:
            prove()
        except BaseException:
            self.changed = frozenset()
            raise


class Cache:
    """ComfyUI's cache that keeps every output (`--cache-lru`): one node, by its inputs and its fingerprint."""

    def __init__(self, node, **inputs):
        self.node, self.inputs, self.kept, self.runs = node, inputs, {}, 0

    def __call__(self, linked=(), **changes):
        inputs = self.inputs | changes
        key = (fingerprint(self.node, **{k: v for k, v in inputs.items() if k not in linked}), str(inputs))
        if key not in self.kept:
            self.runs += 1
            self.kept[key] = run(self.node, **inputs)
        return self.kept[key]


def is_open(engine):
    return engine.executor.engine is not None
