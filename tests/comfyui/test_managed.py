"""The pack's own models under ComfyUI's real memory manager, in a process of their own, with a budget that is faked."""

import pytest

from .inside import run

SCRIPT = """
from pack.engine_runtime.config import Sampling
from pack.engine_runtime.models import comfy_queue
from pack.engine_runtime.models.conditioning import encode_prompt
from pack.engine_runtime.models.engines import eager_engine
from pack.engine_runtime.models.loading import load
from pack.engine_runtime.models.prompt import Prompt
from pack.engine_runtime.registry import registry
from pack.engine_runtime.takes.render import render, take_batch
from pack.nodes.load_model import managed

cpu = torch.device("cpu")
with torch.inference_mode():
    model = managed(load("random", cpu, torch.float32), cpu)
    before = len(manager.current_loaded_models)
    engine = eager_engine(model)
    held = [m for m in manager.current_loaded_models]
    size = sum(p.nbytes for part in model.pipe.components.values() if isinstance(part, torch.nn.Module)
               for p in part.state_dict().values())

    def play():
        requests = take_batch(encode_prompt(model, Prompt("piano", seconds=1)), Sampling(2), 2, 1)
        return torch.stack(render("x", engine, requests)[0])

    kept, load = [], manager.load_models_gpu
    def loads(*given, **how):
        kept.append(bool(registry.one(comfy_queue._Now).loads))
        return load(*given, **how)
    manager.load_models_gpu = loads
    first = play()
    loaded = held[-1].model_loaded_memory()
    manager.get_free_memory = lambda *a, **k: (0, 0) if k.get("torch_free_too") else 0  # the budget: nothing is free
    manager.free_memory(1e30, cpu)
    gone = len(manager.current_loaded_models)
    second = play()
    back = len(manager.current_loaded_models)
    manager.free_memory(1e5, cpu)  # the size of a small part of it
    part = len(manager.current_loaded_models)
    fourth = play()
    manager.unload_all_models()
    freed = len(manager.current_loaded_models)
    third = play()
print(json.dumps({"before": before, "held": len(held), "size": held[-1].model_memory(), "true": size,
    "loaded": loaded, "gone": gone, "back": back, "freed": freed,
    "part": part, "kept": kept, "same": all(bool(torch.equal(first, other)) for other in (second, third, fourth))}))
"""


@pytest.fixture(scope="module")
def report(comfy, tmp_path_factory):
    return run(SCRIPT, comfy.server.install, comfy.pack, tmp_path_factory.mktemp("managed"))


def test_the_manager_knows_the_model_and_its_size(report):
    assert (report["before"], report["held"]) == (0, 1)
    assert report["size"] == report["true"] > 1e7 and report["loaded"] == report["size"]


def test_it_goes_when_asked_and_comes_back_by_itself(report):
    assert (report["gone"], report["back"], report["freed"]) == (0, 1, 0)
    assert report["same"]


def test_no_capture_begins_while_it_is_loaded_beside_the_queue(report):
    assert report["kept"] and all(report["kept"])


def test_it_goes_whole_where_a_part_would_do(report):
    """Its matrices share memory: a part that went would leave its room taken."""
    assert report["part"] == 0
