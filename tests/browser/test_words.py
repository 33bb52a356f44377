"""The panel in the editor's language."""

from __future__ import annotations

import pytest

from .editor import PATIENCE, Editor, live

pytestmark = pytest.mark.browser
SPEAK = "(language) => window.app.extensionManager.setting.set('Comfy.Locale', language)"


def test_the_panel_speaks_the_language_of_the_editor(own_editor: Editor) -> None:
    editor = own_editor
    editor.open()
    editor.page.evaluate(SPEAK, "zh")
    try:
        editor.page.wait_for_timeout(500)  # the setting is on its way to the server
        editor.page.reload()
        editor.ready()
        editor.load(live())
        panel = editor.page.get_by_role("group", name="实时演奏")
        assert "尚未开始" in panel.inner_text()
        editor.button("播放").click()
        says = "() => document.querySelector('.ostinato-panel').innerText.includes('正在播放 · ')"
        editor.page.wait_for_function(says, timeout=PATIENCE)
        assert "断音 " in panel.inner_text() and "underruns" not in panel.inner_text()
        assert editor.problems == []
    finally:
        editor.page.evaluate(SPEAK, "en")
        editor.page.wait_for_timeout(500)
