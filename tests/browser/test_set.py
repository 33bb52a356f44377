"""`ostinato live` as a set: changes on the beat, controllers, recordings, and a workflow that holds it all."""

from __future__ import annotations

import json
from typing import Any

import pytest
import soundfile

from .conftest import Server
from .test_live import PATIENCE, press_play

pytestmark = pytest.mark.browser

# One device that a test moves: `window.desk(176, 7, 64)`. There is no MIDI where tests run.
DESK = """
const input = { name: "A desk", onmidimessage: null };
window.asked = 0;
window.desk = (...data) => input.onmidimessage({ data: new Uint8Array(data) });
navigator.requestMIDIAccess = async () => {
  window.asked += 1;
  return { inputs: new Map([["1", input]]), onstatechange: null };
};
"""
WIDGET = "[data-place='4 velocity_scale']"
VALUE = f'() => Number(document.querySelector("{WIDGET} input[type=number]").value)'


@pytest.fixture
def desk(page: Any, server: Server) -> Any:
    page.add_init_script(DESK)
    page.goto(server.address)
    page.wait_for_selector("fieldset", timeout=PATIENCE)
    return page


def learn(page: Any) -> None:
    page.click(f"{WIDGET} label", button="right")
    page.get_by_role("menuitem", name="Learn a controller").click()
    page.wait_for_function("() => window.asked > 0", timeout=PATIENCE)
    for value in (10, 11, 12):
        page.evaluate("(value) => window.desk(176, 7, value)", value)


def saved(page: Any) -> dict[str, Any]:
    with page.expect_download() as download:
        page.click("#save")
    return json.loads(download.value.path().read_text(encoding="utf-8"))


def test_a_controller_is_learned_and_turns_its_widget(desk: Any) -> None:
    assert desk.evaluate("() => window.asked") == 0  # permission is asked when it is used
    learn(desk)
    assert "controller 7" in desk.inner_text("#message")
    desk.evaluate("() => window.desk(176, 7, 127)")
    high = desk.evaluate(VALUE)
    desk.evaluate("() => window.desk(176, 7, 0)")
    assert desk.evaluate(VALUE) == 0.0 < high
    desk.wait_for_function(
        "() => window.ostinato.widgets.find((w) => w.input === 'velocity_scale').value === 0", timeout=PATIENCE
    )
    desk.evaluate("() => window.desk(176, 7, 32)")
    turned = desk.evaluate(VALUE)
    file = saved(desk)
    assert file["4"]["inputs"]["velocity_scale"] == turned
    (bound,) = file["1"]["_meta"]["ostinato"]["midi"]
    assert (bound["device"], bound["number"], bound["input"]) == ("A desk", 7, "velocity_scale")
    desk.reload()
    desk.wait_for_selector("fieldset", timeout=PATIENCE)
    desk.click("#play")
    desk.wait_for_function("() => window.asked > 0", timeout=PATIENCE)  # the map came back, so the device is wanted
    desk.evaluate("() => window.desk(176, 7, 64)")
    assert desk.evaluate(VALUE) not in (0.0, turned)
    desk.click(f"{WIDGET} label", button="right")
    desk.get_by_role("menuitem", name="Forget").click()
    assert saved(desk)["1"]["_meta"]["ostinato"]["midi"] == []


def test_what_turning_takes_is_shown_before_the_first_turn(page: Any, server: Server) -> None:
    page.wait_for_selector("fieldset", timeout=PATIENCE)
    takes = {"4 ode_noise": "next tick", "3 tags": "next generation", "3 seconds": "a new ring", "5 depth": "next tick"}
    for place, text in takes.items():
        assert page.inner_text(f"[data-place='{place}'] output").startswith(text)
    assert page.problems == []


def test_a_turn_waits_for_the_bar_and_is_shown(page: Any, server: Server) -> None:
    press_play(page)
    page.select_option("#when", "bar")
    page.evaluate("() => window.ostinato.turn({ node: '4', input: 'velocity_scale' }, 0.95)")
    page.wait_for_function(
        "() => document.querySelector('#queue').textContent.startsWith('velocity scale in ')", timeout=PATIENCE
    )
    page.wait_for_function("() => document.querySelector('#queue').textContent === ''", timeout=PATIENCE)
    page.wait_for_function("() => (window.ostinato.latencies.times.tick ?? []).length > 0", timeout=PATIENCE)
    assert saved(page)["1"]["_meta"]["ostinato"]["when"] == "bar"
    page.select_option("#when", "now")
    assert page.problems == []


def test_a_recording_is_what_was_heard(page: Any, server: Server) -> None:
    press_play(page)
    page.click("#record")
    page.wait_for_function(
        "() => document.querySelector('#record').textContent.match(/\\(([2-9]|\\d\\d) s\\)/)", timeout=PATIENCE
    )
    page.click("#record")
    page.wait_for_function(
        "() => document.querySelector('#message').textContent.startsWith('Recorded')", timeout=PATIENCE
    )
    (file,) = (server.folder / "out" / "live").glob("recording_*.flac")
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download {file.name}").click()
    assert download.value.path().read_bytes() == file.read_bytes()
    samples, rate = soundfile.read(file)
    assert rate == 48_000 and 1.4 * rate <= len(samples) < 20 * rate and abs(samples).max() > 0.02
