"""Parts of file names that are filled in, by the rules of ComfyUI's frontend, in Save Take and on the command line."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace

import pytest
import torch
from ostinato.cli import core_nodes
from ostinato.cli.core_nodes import Folders, SaveAudio, use_folders
from ostinato.nodes.save_take import SaveTake
from ostinato.nodes.shared import file_names, host
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.file_names import date_text, fill_in, script_text
from ostinato.nodes.shared.run import run_node

NOW = datetime(2026, 3, 7, 8, 5, 9)

# Type, title and property of some nodes, and their values. The frontend's own function, of 1.43.18 and of 1.58.1, was
# run on 12,600 random names and graphs of this kind beside this one and gave the same.
NODES = [
    ("OstinatoLoadModel", "First", None, {"model": "tiny"}),
    (
        "OstinatoEncodePrompt",
        "Prompt",
        None,
        {"tags": 'a/b\\c:d*e?f"g<h>i|j\nk', "bpm": 120, "seconds": 1.0, "key": None},
    ),
    ("OstinatoStreamDenoise", "Loop", "Ring", {"seed": 18446744073709551615, "shift": 1e-7, "engine": ["1", 0]}),
    ("OstinatoStreamDenoise", "First", None, {"seed": 5, "live": True, "points": [[0, 1.5], [1]], "curve": {"a": 1}}),
]


def running():
    """The hidden inputs of a node in such a graph."""
    prompt = {
        str(i): {"class_type": kind, "inputs": values, "_meta": {"title": title}}
        for i, (kind, title, _, values) in enumerate(NODES)
    }
    drawn = [
        {"id": i, "type": kind, "title": title, "properties": {file_names.SEARCHED: name} if name else {}}
        for i, (kind, title, name, _) in enumerate(NODES)
    ]
    primitive = {"id": 9, "type": "PrimitiveNode", "title": "Song", "widgets_values": ["blue", "fixed"]}
    return SimpleNamespace(prompt=prompt, extra_pnginfo={"workflow": {"nodes": [*drawn, primitive]}})


FILLED = {
    "plain": "plain",
    "%date:yyyy-MM-dd%/song": "2026-03-07/song",
    "%date:yy.MM%": "%date:yy.MM%",  # a point makes it a node and a widget
    "%date:yyyy.MM.dd%": "2026",  # two points do not, and the date ends at the first
    "%date:%": "",
    "%Date:yyyy%": "%Date:yyyy%",
    "a%date:d-M-h-m-s%b%date:hhmmss%": "a7-3-8-5-9b080509",
    "%width%x%height%": "%width%x%height%",
    "%year%": "%year%",  # which the server fills in
    "100%": "100%",
    "%%date:yy%%": "%26%",
    "%OstinatoLoadModel.model%": "tiny",
    "%First.model%": "tiny",  # by title, the first of two
    "%First.seed%": "%First.seed%",
    "%Ring.seed%": "18446744073709552000",  # a double, as in a browser
    "%OstinatoStreamDenoise.seed%": "5",  # the other one has another name
    "%Loop.shift%": "1e-7",
    "%Prompt.seconds%": "1",
    "%Prompt.key%": "",
    "%Prompt.tags%": "a_b_c_d_e_f_g_h_i_j_k",
    "%OstinatoStreamDenoise.live%": "true",
    "%OstinatoStreamDenoise.points%": "0,1.5,1",
    "%OstinatoStreamDenoise.curve%": "[object Object]",
    "%Ring.engine%": "%Ring.engine%",  # a link has no value
    "%Nobody.seed%": "%Nobody.seed%",
    "%Prompt.nothing%": "%Prompt.nothing%",
    "%Prompt.bpm.x%": "%Prompt.bpm.x%",
    "%Song.value%": "blue",
    "%PrimitiveNode.value%": "blue",
}


@pytest.mark.parametrize("prefix", FILLED)
def test_a_part_is_filled_in_as_the_frontend_does(prefix):
    assert fill_in(prefix, running(), NOW) == FILLED[prefix]


def test_without_a_workflow_titles_are_the_prompts():
    hidden = running()
    hidden.extra_pnginfo = None
    assert fill_in("%Loop.shift%_%OstinatoEncodePrompt.bpm%_%Ring.seed%", hidden, NOW) == "1e-7_120_%Ring.seed%"
    assert fill_in("%Loop.shift%", SimpleNamespace(prompt=None, extra_pnginfo=None), NOW) == "%Loop.shift%"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("yyyy", "2026"),
        ("yy", "26"),
        ("yyy", "yyy"),
        ("y", "y"),
        ("ddd", "077"),
        ("MMM", "033"),
        ("D", "D"),
        ("hh:mm", "08:05"),
    ],
)
def test_forms_of_dates(form, text):
    assert date_text(form, NOW) == text


def test_numbers_are_written_as_a_browser_writes_them():
    numbers = {0.1: "0.1", -2.0: "-2", 1e21: "1e+21", 1e20: "100000000000000000000", 1e-6: "0.000001", 1.5e-7: "1.5e-7"}
    numbers |= {-0.0: "0", 2**53: "9007199254740992", 1.25e22: "1.25e+22", float("inf"): "Infinity", 120.5: "120.5"}
    assert {number: script_text(number) for number in numbers} == numbers


def test_save_take_and_the_command_line_fill_in(tmp_path):
    """Save Take is no node that the frontend fills in for, so it does so itself; on the command line both do."""
    now = datetime.now()
    hidden = {
        io.Hidden.unique_id: "4",
        io.Hidden.prompt: running().prompt,
        io.Hidden.extra_pnginfo: running().extra_pnginfo,
    }
    take = SimpleNamespace(save=lambda path: path.write_bytes(b"take"))
    silence = {"waveform": torch.zeros(1, 2, 100), "sample_rate": 48000}
    prefix = "%date:yyyy%/%OstinatoStreamDenoise.seed%_%year%"
    with use_folders(Folders(tmp_path)), host.use(host.Host(next_file=core_nodes.next_file)):
        run_node(SaveTake, {"take": take, "filename_prefix": prefix}, hidden)
        run_node(SaveAudio, {"audio": silence, "filename_prefix": prefix}, hidden)
    names = sorted(path.name for path in (tmp_path / str(now.year)).iterdir())
    assert names == [f"5_{now.year}_00001_.safetensors", f"5_{now.year}_00002_.flac"]
