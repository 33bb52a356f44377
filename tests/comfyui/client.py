"""A small client of ComfyUI's HTTP interface: prompts in, history and files out. Events need `websocket-client`."""

import io
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile

Graph = dict[str, dict[str, Any]]


class PromptError(Exception):
    """ComfyUI refused or failed a prompt. `kind` is validation, execution or interrupted."""

    def __init__(self, kind: str, message: str, node_id: str | None = None, details: dict | None = None) -> None:
        super().__init__(f"{kind} at node {node_id}: {message}")
        self.kind, self.message, self.node_id, self.details = kind, message, node_id, details or {}


@dataclass(frozen=True)
class Result:
    prompt_id: str
    outputs: dict[str, dict[str, list]]

    def files(self, kind: str) -> list[dict[str, str]]:
        """The files of a kind ("audio", "images") that all the output nodes named."""
        return [item for output in self.outputs.values() for item in output.get(kind, [])]


@dataclass
class Client:
    address: str
    client_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def request(self, path: str, body: Any = None, timeout: float = 60) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.read()

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def object_info(self) -> dict[str, dict]:
        return self.get("/object_info")

    def interrupt(self, prompt_id: str | None = None) -> None:
        self.request("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        self.request("/free", {"unload_models": True, "free_memory": True})

    def view(self, item: dict[str, str]) -> bytes:
        return self.request("/view?" + urllib.parse.urlencode(item))

    def audio(self, item: dict[str, str]) -> tuple[np.ndarray, int]:
        """The samples `[frames, channels]` and the rate of a saved or previewed file."""
        return soundfile.read(io.BytesIO(self.view(item)), dtype="float32", always_2d=True)

    def submit(self, graph: Graph) -> str:
        """Queues a prompt. A node error is raised even where ComfyUI would run the other outputs without that node."""
        try:
            reply = json.loads(self.request("/prompt", {"prompt": graph, "client_id": self.client_id}))
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            reply = json.loads(error.read())
        if reply.get("error") or reply.get("node_errors"):
            raise validation_error(reply)
        return reply["prompt_id"]

    def running(self, prompt_id: str) -> bool:
        return any(item[1] == prompt_id for item in self.get("/queue")["queue_running"])

    def wait(self, prompt_id: str, seconds: float = 180) -> Result:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return finished(prompt_id, entry)
            time.sleep(0.05)
        self.interrupt(prompt_id)
        raise TimeoutError(f"prompt {prompt_id} did not end in {seconds:.0f} s")

    def run(self, graph: Graph, seconds: float = 180) -> Result:
        return self.wait(self.submit(graph), seconds)

    def events(self) -> "Events":
        return Events(self.address, self.client_id)


def validation_error(reply: dict) -> PromptError:
    for node_id, node in (reply.get("node_errors") or {}).items():
        text = "; ".join(f"{error['message']}: {error['details']}" for error in node["errors"])
        return PromptError("validation", text, node_id, reply)
    error = reply["error"]
    text = error if isinstance(error, str) else f"{error['message']}: {error['details']}"
    return PromptError("validation", text, details=reply)


def finished(prompt_id: str, entry: dict) -> Result:
    status = entry["status"]
    if status["status_str"] == "success":
        return Result(prompt_id, entry["outputs"])
    for name, data in status["messages"]:
        if name == "execution_error":
            raise PromptError("execution", data["exception_message"].strip(), data["node_id"], data)
        if name == "execution_interrupted":
            raise PromptError("interrupted", "the prompt was interrupted", data["node_id"], data)
    raise PromptError("execution", f"failed without a message: {status}")


class Events:
    """The socket of one client, read in a thread from entering to leaving the block. Previews (binary) are dropped."""

    def __init__(self, address: str, client_id: str) -> None:
        self.url = f"ws://{address}/ws?clientId={client_id}"
        self.seen: list[dict] = []
        self.changed = threading.Condition()

    def __enter__(self) -> "Events":
        import websocket

        self.socket = websocket.create_connection(self.url, timeout=30)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        # Only once the server has said hello does it know this client.
        self.wait_for("status", seconds=30)
        return self

    def _read(self) -> None:
        import websocket

        while True:
            try:
                message = self.socket.recv()
            except websocket.WebSocketTimeoutException:
                continue
            except (OSError, websocket.WebSocketException):
                return
            if not message:
                return
            if isinstance(message, str):
                with self.changed:
                    self.seen.append(json.loads(message))
                    self.changed.notify_all()

    def of(self, kind: str) -> list[dict]:
        with self.changed:
            return [event["data"] for event in self.seen if event["type"] == kind]

    def wait_for(self, kind: str, accept=lambda data: True, seconds: float = 60) -> dict:
        """The first event of a kind that `accept` takes, those seen already included."""
        deadline = time.monotonic() + seconds
        with self.changed:
            start = 0
            while True:
                for event in self.seen[start:]:
                    if event["type"] == kind and accept(event["data"]):
                        return event["data"]
                start = len(self.seen)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no {kind} event in {seconds:.0f} s")
                self.changed.wait(left)

    def __exit__(self, *error: object) -> None:
        # Closing alone would leave the thread asleep in recv.
        self.socket.abort()
        self.thread.join(5)
        self.socket.shutdown()
