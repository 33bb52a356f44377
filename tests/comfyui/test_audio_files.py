"""ComfyUI's own LoadAudio and ours read the same of the same files."""

import json
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from ostinato.engine_runtime.audio.read import read_audio
from ostinato.engine_runtime.errors import AudioError

from .. import audio_files
from .server import Install, environment

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
root, folder = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, root)
import comfy.options
comfy.options.enable_args_parsing()
from comfy_extras.nodes_audio import load
found = {}
for path in Path(folder).iterdir():
    try:
        wave, rate = load(str(path))
        samples = wave.float().contiguous().numpy().tobytes()
        found[path.name] = [list(wave.shape), rate, hashlib.sha256(samples).hexdigest()]
    except Exception as error:
        found[path.name] = repr(error)
print(json.dumps(found))
"""

# What ComfyUI 0.20 refuses, and what for.
MORE = {
    "u8.wav": "Unsupported wav dtype",
    "latin-1.wav": "UnicodeDecodeError",
    "joined.mp3": "InvalidDataError",  # at the second file's tag
    "covers.mp3": "InvalidDataError",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    audio_files.write_all(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(install: Install, files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list | str]:
    """By file: shape, rate and hash of the samples, or the error."""
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    asked = [install.python, str(script), str(install.root), str(files)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", audio_files.FILES)
def test_the_same_samples(files: Path, theirs: dict[str, list | str], name: str) -> None:
    expected = theirs[name]
    try:
        samples, rate = read_audio(files / name)
    except AudioError:
        assert isinstance(expected, str), "ComfyUI reads it"
        return
    if name in MORE:
        assert MORE[name] in expected
        return
    assert [list(samples.shape), rate, sha256(samples.numpy().tobytes()).hexdigest()] == expected
