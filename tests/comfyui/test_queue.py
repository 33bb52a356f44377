"""ComfyUI's own queue is kept waiting while a stream is captured, and only where it waits."""

from .inside import run

SCRIPT = """
import asyncio
import threading
import types
import execution
from comfy_execution.utils import CurrentNodeContext
from pack.engine_runtime.device.undisturbed import Neighbours
from pack.engine_runtime.registry import registry
from pack.nodes import OstinatoExtension
from pack.nodes.shared import folders, live_queue

queue = execution.PromptQueue(types.SimpleNamespace(queue_updated=lambda: None))
instance = types.SimpleNamespace(prompt_queue=queue)
sys.modules["server"] = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance))
folders.register = folders.put_example_clip = live_queue.register = lambda: None
asyncio.run(OstinatoExtension().on_load())
began, ends, cleared = (threading.Event() for _ in range(3))
found = {}

def still():
    with registry.one(Neighbours).still() as kept:
        return kept

def worker():  # as in ComfyUI's main.py
    while True:
        item = queue.get(timeout=1000.0)
        with CurrentNodeContext("prompt", "1"):
            found["in the job"] = still()
        began.set()
        ends.wait(60)
        queue.task_done(item[1], {}, None)
        cleared.wait(60)
        cleared.clear()

def until_it_waits():
    for _ in range(1000):
        with queue.mutex:
            if queue.not_empty._waiters:
                return
        threading.Event().wait(0.01)

found["not begun"] = still()
threading.Thread(target=worker, daemon=True).start()
until_it_waits()
with registry.one(Neighbours).still() as kept:
    found["waits"] = kept
    put = threading.Thread(target=queue.put, args=((0, "prompt", {}, {}, [], {}),))
    put.start()
    found["began meanwhile"] = began.wait(0.3)
began.wait(60)
found["a job runs"] = still()
ends.set()
while queue.currently_running:
    threading.Event().wait(0.01)
found["clears up"] = still()
cleared.set()
until_it_waits()
found["waits again"] = still()
print(json.dumps(found))
"""


def test_the_queue_is_kept_waiting_only_where_it_waits(comfy, tmp_path):
    assert run(SCRIPT, comfy.server.install, comfy.pack, tmp_path) == {
        "not begun": False,
        "waits": True,
        "began meanwhile": False,
        "in the job": True,
        "a job runs": False,
        "clears up": False,
        "waits again": True,
    }
