"""The `comfyui` tier: one real server for the session. Everything in this folder carries the marker."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ostinato.cli.graph import catalogue
from ostinato.scripts.graphs import CLIP

from ..examples import ALL, name_of, put_short_clip
from . import ace15
from .client import Client, Graph
from .server import Install, Server, ServerDied, Unavailable, find_install

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
AS_SHIPPED = ("cover",)  # the others play the random model here: a minute of music takes a minute
SHORT = {
    "OstinatoEncodePrompt": {"seconds": 2.0},
    "OstinatoStreamDenoise": {"steps": 4},
    "OstinatoLayerProfile": {"seconds": 2.0, "ticks": 1},  # torch's profiler takes longer than the music
}
OTHERS = ("native_", "live")  # what begins so needs a checkpoint, or plays beside the queue
WORKFLOWS = [path for path in ALL if not name_of(path).startswith(OTHERS)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.comfyui)


@dataclass
class Comfy:
    """A running ComfyUI: its client, and what of its disk a test may look at or fill."""

    client: Client
    server: Server
    pack: Path

    @property
    def input_dir(self) -> Path:
        return self.server.base / "input"

    @property
    def output_dir(self) -> Path:
        return self.server.base / "output"

    @property
    def log_path(self) -> Path:
        return self.server.log_path

    def log(self) -> str:
        return self.server.log()


@pytest.fixture(scope="session")
def install() -> Install:
    try:
        return find_install()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def comfy(install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    server = Server(install, PACK, tmp_path_factory.mktemp("comfyui"))
    try:
        with server:
            yield Comfy(Client(server.address), server, PACK)
    except ServerDied as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def checkpoint(install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small ACE-Step 1.5 diffusion model in float32, 1.3 GB, and `lora.safetensors` beside it; gone at the end."""
    folder = tmp_path_factory.mktemp("ace15")
    ace15.write_lora(folder / "lora.safetensors")
    yield ace15.write_checkpoint(folder / "ace15_small.safetensors")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def models(comfy: Comfy, checkpoint: Path) -> tuple[str, str]:
    """The names under which the server has that model and that LoRA."""
    lora = checkpoint.with_name("lora.safetensors")
    for kind, file in (("diffusion_models", checkpoint), ("loras", lora)):
        place = comfy.server.base / "models" / kind / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    return checkpoint.name, lora.name


@pytest.fixture
def errors_expected() -> None:
    """Asked for by a test that provokes an error whose traceback ComfyUI logs."""


@pytest.fixture(autouse=True)
def no_traceback(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does, the server's log gets no traceback from it, but for the tests that say so."""
    if "comfy" not in request.fixturenames or "errors_expected" in request.fixturenames:
        yield
        return
    server = request.getfixturevalue("comfy")
    before = len(server.log())
    yield
    new = server.log()[before:]
    if "Traceback" in new:
        pytest.fail(f"the server logged a traceback:\n{new[-4000:]}", pytrace=False)


@pytest.fixture(scope="session")
def object_info(comfy: Comfy) -> dict[str, dict]:
    return comfy.client.object_info()


@pytest.fixture(scope="session")
def ours(object_info: dict[str, dict]) -> dict[str, dict]:
    mine = {name: info for name, info in object_info.items() if info["python_module"] == "custom_nodes.ostinato"}
    assert mine, "the server has none of the pack's nodes"
    return mine


@pytest.fixture(scope="session")
def to_api(comfy: Comfy, object_info: dict[str, dict]) -> Callable[[Path], Graph]:
    """Reads a workflow file as a graph for /prompt, and puts the audio files that it loads into the input folder."""
    from ostinato.cli import workflow
    from ostinato.nodes import NODES

    core = [_stand_in(name, info) for name, info in object_info.items() if name in _CORE]
    types = catalogue(NODES, core)

    def convert(path: Path) -> Graph:
        graph = workflow.parse(json.loads(path.read_text(encoding="utf-8")), types).to_api()
        for node in graph.values():
            if node["class_type"] == "LoadAudio":
                _provide(path.parent / node["inputs"]["audio"], comfy.input_dir)
            if node["class_type"] == "OstinatoLoadModel" and name_of(path) not in AS_SHIPPED:
                node["inputs"]["model"] = node["inputs"]["model"].replace("tiny", "random")
        return graph

    return convert


@pytest.fixture(scope="session")
def short_clip(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the first seconds of the examples' clip, in the server's input folder."""
    folder = tmp_path_factory.mktemp("clip")
    put_short_clip(folder)
    shutil.copy(folder / CLIP, comfy.input_dir / "short.flac")
    return "short.flac"


@pytest.fixture(params=WORKFLOWS, ids=name_of)
def example(request: pytest.FixtureRequest, to_api: Callable[[Path], Graph], short_clip: str) -> Graph:
    """One is played as it is shipped; the others are shorter, on fewer steps, which takes a sixth of the time."""
    graph = copy.deepcopy(to_api(request.param))
    if name_of(request.param) not in AS_SHIPPED:
        for node in graph.values():
            node["inputs"] |= SHORT.get(node["class_type"], {})
            if node["class_type"] == "LoadAudio":
                node["inputs"]["audio"] = short_clip
    return graph


@pytest.fixture
def streaming(to_api: Callable[[Path], Graph]) -> tuple[Graph, str]:
    """The example whose Stream Denoise has the least to do, and that node's id."""
    found = [
        (node["inputs"]["count"] * node["inputs"]["steps"], path, node_id)
        for path in WORKFLOWS
        for node_id, node in to_api(path).items()
        if node["class_type"] == "OstinatoStreamDenoise"
    ]
    assert found, "no example workflow has a Stream Denoise node"
    _, path, node_id = min(found)
    return copy.deepcopy(to_api(path)), node_id


_CORE = ("LoadAudio", "PreviewAny", "PreviewAudio", "SaveAudio", "SaveAudioMP3", "SaveAudioOpus")


def _stand_in(name: str, info: dict) -> type:
    """A core node's schema as the workflow reader needs it, from what the server says of it."""
    from ostinato.nodes.shared.comfy import io

    inputs = []
    for group in ("required", "optional"):
        for key, (kind, *options) in info["input"].get(group, {}).items():
            common = {"optional": group == "optional"}
            if isinstance(kind, list) or kind == "COMBO":
                inputs.append(io.Combo.Input(key, options=[], **common))
            elif kind == "STRING":
                inputs.append(io.String.Input(key, default=options[0].get("default"), **common))
            else:
                inputs.append(io.Custom(kind).Input(key, **common))
    schema = io.Schema(node_id=name, display_name=info["display_name"], inputs=inputs)
    return type(name, (io.ComfyNode,), {"define_schema": classmethod(lambda cls: schema)})


def _provide(shipped: Path, folder: Path) -> None:
    """The audio file that comes with the examples, or a tone under its name."""
    if shipped.is_file():
        shutil.copy(shipped, folder)
    else:
        _write_tone(folder / shipped.name)


def _write_tone(path: Path, seconds: float = 12.0, rate: int = 44100) -> None:
    time = np.arange(int(seconds * rate)) / rate
    left, right = np.sin(2 * np.pi * 220 * time), np.sin(2 * np.pi * 330 * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"format": "WAV"} if path.suffix not in (".flac", ".mp3", ".ogg", ".wav") else {}
    soundfile.write(path, 0.2 * np.stack([left, right], axis=1).astype(np.float32), rate, **kind)
