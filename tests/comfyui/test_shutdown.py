"""ComfyUI ends while a live session plays."""

import signal
import sys

import pytest

from .client import Client
from .live import Listener, workflow
from .server import Server


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_comfyui_and_the_threads_of_its_sessions(comfy, tmp_path):
    with Server(comfy.server.install, comfy.pack, tmp_path) as server:
        Client(server.address).run(workflow())
        with Listener(server.address, "5") as listener:
            listener.hear(1.0)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(120) == 0, server.log()[-2000:]
        log = server.log()
        assert "Fatal" not in log and "terminate called" not in log, log[-2000:]
