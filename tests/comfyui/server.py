"""Finds a ComfyUI, says what it lacks, and runs its real server with this repository as a custom node."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

PACK_NAME = "ostinato"
TEST_NODES = Path(__file__).resolve().parent / "border_nodes"
READY_SECONDS = 240

# A few of ComfyUI's own requirements stand for all of them. find_spec is enough for these, and it is quick.
COMFYUI_NEEDS = ("aiohttp", "alembic", "comfyui_frontend_package", "sqlalchemy", "torch", "transformers", "yaml")
PACK_NEEDS = ("av", "platformdirs", "pywt", "safetensors", "scipy", "soundfile", "typer")

# torchaudio is really imported: its native part refuses a torch built for another CUDA, and then ComfyUI cannot start.
# diffusers is only looked at, for importing it takes longer than all the rest.
CHECK = """
import importlib.util, json, sys
from importlib.metadata import version
from pathlib import Path
missing = {}
for name in json.loads(sys.argv[1]):
    if importlib.util.find_spec(name) is None:
        missing[name] = "is not installed"
if "torch" not in missing:
    try:
        import torchaudio
    except Exception as error:
        missing["torchaudio"] = "does not load: " + str(error).split(". ")[0]
diffusers = importlib.util.find_spec("diffusers")
if diffusers is None:
    missing["diffusers"] = "is not installed"
elif not (Path(diffusers.origin).parent / "pipelines" / "ace_step").is_dir():
    missing["diffusers"] = version("diffusers") + " has no AceStepPipeline"
found = None
if "torchaudio" in missing and importlib.util.find_spec("torchaudio"):
    found = version("torchaudio")
print(json.dumps({"missing": missing, "pip": importlib.util.find_spec("pip") is not None, "torchaudio": found}))
"""

# ComfyUI leaves with the test process however that ends, a kill included: its end of the pipe closes.
LEASH = """
import os, runpy, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it starts in the background
def leash():
    while os.read(0, 4096):  # not through sys.stdin, whose lock Python wants when it ends
        pass
    os._exit(0)
threading.Thread(target=leash, daemon=True).start()
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Unavailable(Exception):
    """There is no ComfyUI to test against; the text says what to install."""


class ServerDied(Exception):
    """ComfyUI ended, or did not answer in time; the text holds the end of its log."""


@dataclass(frozen=True)
class Install:
    root: Path
    python: str


def find_install() -> Install:
    root = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()
    if not (root / "main.py").is_file():
        raise Unavailable(f"no ComfyUI at {root}: clone it there, or set COMFYUI_PATH")
    python = find_python(root)
    report = check_packages(python)
    if report["missing"]:
        raise Unavailable(explain(root, python, report))
    return Install(root, python)


def find_python(root: Path) -> str:
    given = os.environ.get("COMFYUI_PYTHON")
    if given:
        if not Path(given).expanduser().is_file():
            raise Unavailable(f"COMFYUI_PYTHON is {given}, which is not a file")
        return str(Path(given).expanduser())
    inner = Path("Scripts", "python.exe") if os.name == "nt" else Path("bin", "python")
    for venv in (".venv", "venv"):
        if (root / venv / inner).is_file():
            return str(root / venv / inner)
    return sys.executable


def check_packages(python: str) -> dict:
    names = json.dumps([*COMFYUI_NEEDS, *PACK_NEEDS])
    done = subprocess.run([python, "-c", CHECK, names], capture_output=True, text=True, timeout=180, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise Unavailable(f"{python} could not be asked for its packages: {done.stderr.strip()[-300:]}")
    return json.loads(lines[-1])


def explain(root: Path, python: str, report: dict) -> str:
    missing = report["missing"]
    wanted = [name for name in missing if name in PACK_NEEDS]
    if any(name in missing for name in COMFYUI_NEEDS):
        wanted.append(f"-r {root / 'requirements.txt'}")
    if "diffusers" in missing:
        wanted.append("'diffusers>=0.42'")
    if "torchaudio" in missing:
        wanted += torchaudio_pair(report["torchaudio"])
    pip = f"{python} -m pip install" if report["pip"] else f"uv pip install --python {python}"
    reasons = "; ".join(f"{name} {why}" for name, why in missing.items())
    return f"ComfyUI's Python {python}: {reasons}. Run: {pip} {' '.join(wanted)}"


def torchaudio_pair(version: str | None) -> list[str]:
    """torchaudio loads only beside the torch of its own release."""
    if version is None:
        return ["torchaudio"]
    release = ".".join(version.split("+")[0].split(".")[:2])
    return [f"'torch=={release}.*'", f"'torchaudio=={release}.*'", "torchvision"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_base(base: Path, pack: Path) -> Path:
    """ComfyUI's folders under `base`, with the pack and the tests' nodes; returns the pack's place there."""
    for name in ("models", "custom_nodes", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    shutil.copytree(TEST_NODES, base / "custom_nodes" / TEST_NODES.name, ignore=shutil.ignore_patterns("__pycache__"))
    place = base / "custom_nodes" / PACK_NAME
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:
        leave = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "out")
        shutil.copytree(pack, place, ignore=leave)
    return place


def shared_cache() -> Path:
    """One cache per user, so that the built-in tiny model is made once and not once a session."""
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"{PACK_NAME}-test-cache-{user}"


def command(install: Install, base: Path, port: int) -> list[str]:
    main = str(install.root / "main.py")
    return [
        *(install.python, "-c", LEASH, main, "--cpu", "--listen", "127.0.0.1", "--port", str(port)),
        *("--base-directory", str(base), "--disable-auto-launch"),
        # The default database is one locked file in ComfyUI's own folder: a ComfyUI in use would end this one.
        *("--database-url", "sqlite:///:memory:"),
        # No API nodes means no address outside this machine, in the page as well.
        "--disable-api-nodes",
        # extra_model_paths.yaml may add other folders of custom nodes.
        *("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME, TEST_NODES.name),
    ]


def environment() -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    # On Windows a log with a sign outside the code page would end the server.
    # One thread, for the tests have the other cores: threads that wait for each other take ten times as long.
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {**inherited, **offline, **quiet, "OSTINATO_CACHE": str(shared_cache())}


@dataclass
class Server:
    """A ComfyUI in a child process. Use as a context manager: it never outlives the block, nor the test process."""

    install: Install
    pack: Path
    base: Path
    port: int = field(default_factory=free_port)
    arguments: tuple[str, ...] = ()  # more of the command line
    started_in: float = 0.0
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.base / "server.log"

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def __enter__(self) -> "Server":
        make_base(self.base, self.pack)
        started = time.monotonic()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*command(self.install, self.base, self.port), *self.arguments],
                cwd=self.install.root,
                env={**environment(), "OSTINATO_DATA": str(self.base / "data")},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        self.started_in = time.monotonic() - started
        return self

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerDied(f"ComfyUI ended with code {self.process.returncode}:\n{self.log()[-4000:]}")
            if self.answers():
                return
            time.sleep(0.2)
        raise ServerDied(f"ComfyUI did not answer in {seconds:.0f} s:\n{self.log()[-4000:]}")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/object_info", timeout=30) as reply:
                return reply.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def stop(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.process.stdin.close()

    def __exit__(self, *error: object) -> None:
        self.stop()
