"""Open TensorRT engines under ComfyUI's real memory manager, in a process of their own; the engines are pretended."""

import pytest

from .inside import run

SCRIPT = """
import gc
from contextlib import contextmanager
from types import SimpleNamespace
from comfy_execution.utils import CurrentNodeContext
from pack.engine_runtime.trt import loader
from pack.nodes.shared import managed

cpu = torch.device("cpu")
MB = 1 << 20


class Engine:
    def __init__(self):
        self.device, self.sidecar = cpu, SimpleNamespace(plan_bytes=30 * MB)
        self.executor = SimpleNamespace(engine=SimpleNamespace(device_memory_size_v2=3 * MB))

    @contextmanager
    def paused(self):
        yield self.executor.engine

    def close(self):
        self.executor.engine = None

    def open_again(self):
        self.executor.engine = self.executor.engine or SimpleNamespace()

    def ready(self):
        managed.bring(self, self.open_again)

    @property
    def open(self):
        return self.executor.engine is not None


def known():
    return [(m.model_memory() // MB, m.model_loaded_memory() // MB) for m in manager.current_loaded_models]


engine, found = Engine(), {}
CurrentNodeContext("a job", "1").__enter__()  # as the queue runs nodes
engine.ready()
engine.ready()
found["loaded"] = known()
manager.get_free_memory = lambda *a, **k: (0, 0) if k.get("torch_free_too") else 0  # the budget: nothing is free
with loader.busy(engine):
    manager.free_memory(1e30, cpu)
    found["busy"] = engine.open
engine.ready()
manager.free_memory(MB, cpu)
found["gone"] = [engine.open, known()]
engine.ready()
found["back"] = [engine.open, known()]
manager.unload_all_models()  # POST /free
found["freed"] = [engine.open, known()]
engine.ready()
del engine
gc.collect()
manager.cleanup_models_gc()
found["dropped"] = [len(managed._patchers), known()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(comfy, tmp_path_factory):
    return run(SCRIPT, comfy.server.install, comfy.pack, tmp_path_factory.mktemp("memory"))


def test_the_manager_knows_an_engine_and_its_size(found):
    assert found["loaded"] == [[33, 33]]


def test_it_goes_when_asked_and_comes_back_to_play(found):
    assert found["gone"] == found["freed"] == [False, []] and found["back"] == [True, [[33, 33]]]
    assert found["busy"], "not while it is compared or written"


def test_nothing_is_kept_of_an_engine_that_is_gone(found):
    assert found["dropped"] == [0, []]
