"""The extension in ComfyUI's canvas, with the real frontend package.

OSTINATO_BROWSER_COMFYUI runs them in a real ComfyUI, where one is installed, and not on the small host of `host.py`.
Times are recorded (`--junit-xml`), and decide only where `OSTINATO_QUIET` says that two cores are idle.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from .editor import PATIENCE, Editor, live, sessions, template

pytestmark = pytest.mark.browser
HOT_MS = 500.0  # of the 95th percentile, on two idle cores
KNOBS, PROMPT, CURVE, LIVE = "OstinatoKnobs", "OstinatoEncodePrompt", "OstinatoCurvePoints", "OstinatoLiveSession"


@pytest.mark.every_editor
def test_it_plays_and_is_silent_before(editor: Editor, record_property: Callable[[str, Any], None]) -> None:
    editor.open(live())
    assert editor.page.evaluate("() => window.ostinato.open.size") == 0
    begin = time.monotonic()
    editor.play()
    record_property("first sound, s", time.monotonic() - begin)
    assert editor.prompts == 1 and "playing" in sessions(editor.host).values()
    editor.wait("link.figures.slots")
    panel = editor.page.locator(".ostinato-panel")
    assert "underruns" in panel.inner_text() and "a tick" in panel.inner_text()
    panel.locator(".ostinato-ring[aria-label*='of 8 steps']").wait_for(timeout=PATIENCE)
    editor.wait("link.waveform.peaks.every((peak) => peak >= 0)")  # a whole round was heard
    inked = "(canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x)"
    assert editor.page.locator(".ostinato-wave").evaluate(inked)
    assert editor.problems == []


@pytest.mark.every_editor
def test_a_widget_that_is_clicked_is_heard(editor: Editor, record_property: Callable[[str, Any], None]) -> None:
    editor.open(live())
    editor.play()
    before, queued = editor.value(KNOBS, "ode_noise"), editor.prompts
    first = editor.turned(lambda: editor.step_up(KNOBS, "ode_noise"))
    assert editor.value(KNOBS, "ode_noise") > before and editor.prompts == queued
    note = editor.page.locator(".ostinato-notes", has_text="ode_noise")
    assert "next tick" in note.inner_text() and "ms" in note.inner_text()
    times = [first, *(editor.turned(lambda: editor.step_up(KNOBS, "ode_noise")) for _ in range(4))]
    record_property("hot knob to the ear, ms", (statistics.median(times), max(times)))
    assert not os.environ.get("OSTINATO_QUIET") or max(times) <= HOT_MS, times
    assert editor.problems == []


@pytest.mark.every_editor
def test_a_new_prompt_is_heard(editor: Editor) -> None:
    editor.open(live())
    editor.play()
    fields = editor.page.locator("textarea").all()
    (field,) = (field for field in fields if "funk" in field.input_value())
    field.fill("slow ambient pads")
    editor.wait("(link.latencies.times.slot ?? []).length > 0")
    assert editor.link("link.latencies.times.slot.length") == 1, "typing is one change"
    assert editor.problems == []


@pytest.mark.every_editor
def test_a_curve_is_drawn_while_it_plays(editor: Editor) -> None:
    editor.open(live())
    editor.play()
    points = editor.page.locator(".ostinato-curve-point")
    assert points.count() == 4
    box = points.nth(2).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag() -> None:
        editor.page.mouse.move(x, y)
        editor.page.mouse.down()
        editor.page.mouse.move(x, y - 20, steps=3)
        editor.page.mouse.up()

    editor.turned(drag)
    drawn = editor.value(CURVE, "points")
    assert drawn["points"][2][1] > 0.52 and drawn["points"][2][0] == pytest.approx(0.8, abs=0.02)
    points.nth(1).focus()
    editor.turned(lambda: editor.page.keyboard.press("ArrowDown"))
    assert editor.value(CURVE, "points")["points"][1][1] == pytest.approx(0.99)
    points.nth(1).press("Delete")
    editor.page.wait_for_function("() => document.querySelectorAll('.ostinato-curve-point').length === 3")
    editor.page.locator(".ostinato-curve-field").dblclick(position={"x": 30, "y": 60})
    assert len(editor.value(CURVE, "points")["points"]) == 4
    saved = "() => window.app.graph.serialize().nodes.find((n) => n.type === 'OstinatoCurvePoints').widgets_values[0]"
    assert len(editor.page.evaluate(saved)["points"]) == 4
    assert editor.page.locator(".ostinato-notes .ostinato-wrong").count() == 0
    assert editor.problems == []


def test_a_reload_goes_on_and_keys_rule(editor: Editor) -> None:
    workflow = live()
    editor.open(workflow)
    editor.play()
    editor.page.locator(".ostinato-panel input[type=range]").fill("0.5")
    editor.kept(workflow["id"])
    editor.page.reload()
    editor.ready()
    editor.wait("link.state === 'playing' && link.player.gain")
    editor.sounds()
    assert editor.prompts == 1 and editor.page.locator(".ostinato-panel input[type=range]").input_value() == "0.5"
    editor.page.mouse.click(1400, 700)
    editor.page.keyboard.press("Alt+Shift+C")
    message = editor.page.locator(".ostinato-message")
    editor.page.wait_for_function("() => /flac/.test(document.querySelector('.ostinato-message').textContent)")
    name = message.inner_text().removeprefix("Kept: ").split(",")[0]
    assert (editor.host.folder / "live" / name).is_file()
    editor.page.keyboard.press("Alt+Shift+P")
    editor.wait("link.state === 'paused'")
    editor.page.keyboard.press("Alt+Shift+P")
    editor.wait("link.state === 'playing'")
    editor.page.keyboard.press("Alt+Shift+X")
    editor.wait("link.state === 'ready'")
    assert editor.problems == []


def test_a_removed_node_ends_and_a_closed_workflow_pauses(editor: Editor) -> None:
    mine, other = live(), live()
    editor.open(mine)
    editor.play()
    (name,) = (name for name in sessions(editor.host) if name.startswith(mine["id"]))
    editor.load(other)
    editor.page.wait_for_function("() => window.ostinato.open.size === 0", timeout=PATIENCE)
    assert name in sessions(editor.host), "another workflow does not end it"
    editor.load(mine)
    editor.page.wait_for_function("() => window.ostinato.open.size === 1", timeout=PATIENCE)
    editor.play()
    node = "window.app.graph.nodes.find((n) => n.type === 'OstinatoLiveSession')"
    editor.page.evaluate(f"() => window.app.graph.remove({node})")
    deadline = time.monotonic() + PATIENCE / 1000
    while name in sessions(editor.host):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert editor.problems == []


@pytest.mark.every_editor
def test_a_widget_in_a_subgraph_is_heard(editor: Editor) -> None:
    """Both where it is, and where the subgraph's own node has it as its own."""
    editor.open(live())
    wrap = """() => {
      const { graph } = window.app;
      graph.convertToSubgraph(new Set([graph.nodes.find((n) => n.type === 'OstinatoKnobs')]));
      window.outer = graph.nodes.find((n) => n.subgraph);
      window.inner = window.outer.subgraph.nodes.find((n) => n.type === 'OstinatoKnobs');
    }"""
    promote = """() => {
      const slot = window.inner.inputs.find((input) => input.name === "ode_noise");
      window.outer.subgraph.addInput("noise", slot.type).connect(slot, window.inner);
    }"""
    turn = "([node, name, value]) => { window[node].widgets.find((w) => w.name === name).value = value }"
    editor.page.evaluate(wrap)
    editor.play()
    editor.turned(lambda: editor.page.evaluate(turn, ["inner", "ode_noise", 0.1]))
    editor.page.evaluate(promote)
    editor.turned(lambda: editor.page.evaluate(turn, ["outer", "noise", 0.3]))
    assert editor.link("link.latencies.times.tick.length") == 2
    assert editor.problems == []


@pytest.mark.every_editor
def test_text_and_every_clip_stay_under_their_nodes(editor: Editor) -> None:
    editor.open()
    rows = 8 + editor.nodes2  # an engine of its own: one that is kept from an earlier run has nothing to say
    short = template(
        "text_to_music",
        OstinatoEngine={1: rows},
        OstinatoEncodePrompt={2: 1.0},
        OstinatoStreamDenoise={0: 2, 1: 2},
    )
    editor.page.evaluate("(workflow) => window.app.loadGraphData(workflow, true, true)", short)
    editor.page.evaluate("() => window.app.queuePrompt(0, 1)")
    editor.page.wait_for_selector(".ostinato-clips audio", timeout=PATIENCE)
    clips = editor.page.locator(".ostinato-clips > div")
    assert clips.count() == 2
    for clip in clips.all():
        with editor.page.expect_download() as download:
            clip.get_by_role("link").click()
        assert download.value.path().stat().st_size > 10_000
    notes = editor.page.locator(".ostinato-notes")
    for text in ("in one pass", "ms per tick"):
        notes.filter(has_text=text).first.wait_for(timeout=PATIENCE)
    assert editor.problems == []
