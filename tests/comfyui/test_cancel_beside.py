"""A Cancel of ComfyUI's queue that one of its layers takes beside the queue, where a widget is turned."""

from .inside import run

SCRIPT = """
import types
import torch
import comfy.model_management as manager
import comfy.ops
from pack.engine_runtime.errors import SessionError
from pack.nodes.shared import host

queue = types.SimpleNamespace(currently_running={})
instance = types.SimpleNamespace(prompt_queue=queue)
sys.modules["server"] = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance))
layer = comfy.ops.disable_weight_init.Linear(4, 4)

def turned():
    try:
        with host.aside():
            layer(torch.ones(1, 4))
    except SessionError as error:
        return ["refused", manager.processing_interrupted()]
    return ["played", manager.processing_interrupted()]

found = {"before": turned()}
manager.interrupt_current_processing()
found["no job"], found["after it"] = turned(), turned()
queue.currently_running[1] = "a job"
manager.interrupt_current_processing()
found["a job"] = turned()
print(json.dumps(found))
"""


def test_it_is_left_to_the_job_it_is_for(comfy, tmp_path):
    """Its job still finds it there; where none runs, it is used up."""
    assert run(SCRIPT, comfy.server.install, comfy.pack, tmp_path) == {
        "before": ["played", False],
        "no job": ["refused", False],
        "after it": ["played", False],
        "a job": ["refused", True],
    }
