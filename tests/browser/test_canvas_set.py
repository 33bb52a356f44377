"""A workflow in ComfyUI's canvas as a set: controllers, changes on the beat, recordings, and what is missing."""

from __future__ import annotations

import time
from typing import Any

import pytest
import soundfile

from .editor import PATIENCE, Editor, live, template
from .test_set import DESK

pytestmark = pytest.mark.browser
KNOBS, LIVE = "OstinatoKnobs", "OstinatoLiveSession"
KEPT = f"() => window.app.graph.nodes.find((n) => n.type === '{LIVE}').properties.ostinato"
MESSAGE = ".ostinato-message"
PLUG_IN = f"() => {{ {DESK} }}"

# Acts as soon as the panel asks for a controller, before any timer.
WHEN_ASKED = f"""
new MutationObserver((_, observer) => {{
  if (!document.querySelector("{MESSAGE}").textContent.includes("Move a controller")) return;
  observer.disconnect();
  ACT;
}}).observe(document.querySelector("{MESSAGE}"), {{ childList: true, characterData: true, subtree: true }});
"""


def move(editor: Editor, *places: int) -> None:
    """Move a controller of the desk."""
    editor.page.evaluate("(places) => places.forEach((place) => window.desk(176, 7, place))", places)


def says(editor: Editor, text: str) -> None:
    """Wait until the panel says this."""
    found = "([kind, text]) => document.querySelector(kind).textContent.includes(text)"
    editor.page.wait_for_function(found, arg=[MESSAGE, text], timeout=PATIENCE)


@pytest.mark.every_editor
def test_a_controller_is_learned_from_the_menu_of_a_node(editor: Editor) -> None:
    editor.open(live())
    editor.page.evaluate(PLUG_IN)
    editor.play()
    assert editor.page.evaluate("() => window.asked") == 0
    editor.menu(KNOBS, "Ostinato: controllers", "ode noise: Learn a controller")
    says(editor, "Move a controller")
    move(editor, 100, 99, 98)
    says(editor, "controller 7")
    editor.turned(lambda: move(editor, 64))
    turned = editor.value(KNOBS, "ode_noise")
    assert 0.4 < turned < 0.6
    kept = editor.page.evaluate(KEPT)
    assert (kept["midi"][0]["device"], kept["midi"][0]["input"], kept["when"]) == ("A desk", "ode_noise", "now")
    editor.kept("A desk")
    editor.page.reload()
    editor.ready()
    editor.page.evaluate(PLUG_IN)
    editor.wait("link.state === 'playing' && link.player.gain")
    editor.button("Play").click()
    editor.page.wait_for_function("() => window.asked > 0", timeout=PATIENCE)
    editor.turned(lambda: move(editor, 0))
    assert editor.value(KNOBS, "ode_noise") == 0.0
    editor.menu(KNOBS, "Ostinato: controllers", "ode noise: Forget controller 7 of channel 1, A desk")
    assert editor.page.evaluate(KEPT)["midi"] == []
    assert editor.problems == []


def test_a_stick_of_a_gamepad_turns_a_widget(editor: Editor) -> None:
    pad = "window.pad = { id: 'A pad', axes: [0, 0], buttons: [] }; navigator.getGamepads = () => [window.pad];"
    push = "(place) => { window.pad = { ...window.pad, axes: [0, place] } }"
    editor.open(live())
    editor.page.evaluate(f"() => {{ {pad} }}")
    editor.page.evaluate(PLUG_IN)
    editor.play()
    editor.page.evaluate(f"(place) => {{ {WHEN_ASKED.replace('ACT', f'({push})(place)')} }}", 0.9)
    editor.menu(KNOBS, "Ostinato: controllers", "ode noise: Learn a controller")
    says(editor, "ode noise: axis 1, A pad")
    editor.turned(lambda: editor.page.evaluate(push, -1))
    assert editor.value(KNOBS, "ode_noise") == 0.0
    editor.turned(lambda: editor.page.evaluate(push, 0))
    assert 0.4 < editor.value(KNOBS, "ode_noise") < 0.6
    assert editor.problems == []


def test_a_controller_is_learned_by_keys(editor: Editor) -> None:
    editor.open(live())
    editor.page.evaluate(PLUG_IN)
    editor.play()
    editor.page.evaluate(f"() => window.app.canvas.select(window.app.graph.nodes.find((n) => n.type === '{KNOBS}'))")
    editor.page.keyboard.press("Alt+Shift+L")
    first = editor.page.get_by_role("menuitem").first
    name = first.inner_text().partition(":")[0]
    editor.page.keyboard.press("Enter")
    says(editor, f"for {name}; Escape ends it")
    editor.page.keyboard.press("Escape")
    move(editor, 1, 2, 3)
    assert (editor.page.evaluate(KEPT) or {}).get("midi", []) == []
    assert editor.problems == []


def test_a_turn_waits_for_the_bar_and_a_recording_is_downloaded(editor: Editor) -> None:
    editor.open(live())
    editor.play()
    panel = editor.page.locator(".ostinato-panel")
    editor.button("Record").click()
    panel.get_by_label("Changes").select_option("bar")
    assert editor.page.evaluate(KEPT)["when"] == "bar"
    queue = "() => document.querySelector('.ostinato-queue').textContent"
    editor.step_up(KNOBS, "ode_noise")
    editor.page.wait_for_function(f"() => ({queue})().startsWith('ode noise in ')", timeout=PATIENCE)
    editor.page.wait_for_function(f"() => ({queue})() === ''", timeout=PATIENCE)
    editor.page.wait_for_function("() => /\\((?!0)\\d+ s/.test(document.querySelector('.ostinato-panel').innerText)")
    editor.button("End recording").click()
    with editor.page.expect_download() as download:
        panel.get_by_role("link", name="Download recording").click()
    samples, rate = soundfile.read(download.value.path())
    assert rate == 48_000 and len(samples) > rate / 2 and abs(samples).max() > 0.02
    assert editor.problems == []


def test_what_is_missing_here_is_listed_in_the_panel(editor: Editor) -> None:
    workflow: dict[str, Any] = template("live", OstinatoLoadModel={0: "a_model_of_mine"})
    editor.open(workflow)
    lines = editor.page.locator(".ostinato-missing li")
    lines.first.wait_for(timeout=PATIENCE)
    assert lines.count() == 1 and "a_model_of_mine" in lines.first.inner_text()
    editor.load(live())
    editor.page.wait_for_function("() => document.querySelector('.ostinato-missing').hidden", timeout=PATIENCE)


def test_what_turning_takes_is_said_before_the_first_turn(editor: Editor) -> None:
    editor.open(live())
    editor.play()
    notes = editor.page.locator(".ostinato-notes")
    notes.filter(has_text="seconds: a new ring").wait_for(timeout=PATIENCE)
    (prompt,) = notes.filter(has_text="seconds: a new ring").all_inner_texts()
    assert prompt.startswith("live: next generation")
    ticks = notes.filter(has_text="live: next tick").count()
    editor.turned(lambda: editor.step_up(KNOBS, "ode_noise"))
    assert ticks == notes.filter(has_text="live: next tick").count() == 2  # Knobs, and the curve that leads to it
    assert editor.problems == []


def test_other_links_are_told_until_the_graph_is_run(editor: Editor) -> None:
    editor.open(live())
    editor.play()
    told = editor.page.locator(".ostinato-rewired")
    time.sleep(1.5)
    assert not told.is_visible()
    knobs = f"window.app.graph.nodes.find((n) => n.type === '{KNOBS}')"
    wired = "(slot) => slot.name === 'velocity_scale'"
    editor.page.evaluate(f"() => {{ const node = {knobs}; node.disconnectInput(node.inputs.findIndex({wired})) }}")
    told.wait_for(timeout=PATIENCE)
    editor.page.evaluate("() => window.app.queuePrompt(0, 1)")
    told.wait_for(state="hidden", timeout=PATIENCE)
    editor.wait("link.widgets.some((widget) => widget.input === 'velocity_scale')")
    assert editor.problems == []


def test_a_capture_chooses_itself_in_the_graph(editor: Editor) -> None:
    editor.open(live())
    add = "window.app.graph.add(window.LiteGraph.createNode('OstinatoLiveCapture'))"
    editor.page.evaluate(f"() => {{ {add} }}")
    editor.play()
    editor.button("Capture").click()
    says(editor, "Kept: ")
    name = editor.page.locator(MESSAGE).inner_text().removeprefix("Kept: ").partition(".flac")[0]
    assert name and editor.value("OstinatoLiveCapture", "capture") == name
    with editor.page.expect_download() as download:
        editor.page.locator(".ostinato-panel").get_by_role("link", name=f"Download {name}.flac").click()
    assert soundfile.info(download.value.path()).samplerate == 48_000
    assert editor.problems == []
