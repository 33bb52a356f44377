"""The panel in the editor's language, and the page of `ostinato live` in the browser's."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Server
from .editor import PATIENCE, Editor, live

pytestmark = pytest.mark.browser
SPEAK = "(language) => window.app.extensionManager.setting.set('Comfy.Locale', language)"


def speak(editor: Editor, language: str) -> None:
    """Set the editor's language, and wait until the server has it."""
    with editor.page.expect_response(lambda reply: "Comfy.Locale" in reply.url, timeout=PATIENCE):
        editor.page.evaluate(SPEAK, language)


def test_the_panel_speaks_the_language_of_the_editor(own_editor: Editor) -> None:
    editor = own_editor
    editor.open()
    speak(editor, "zh")
    try:
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
        speak(editor, "en")


def test_the_page_speaks_the_language_of_the_browser(browser: Any, server: Server) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("fieldset", timeout=PATIENCE)
    header = page.inner_text("header")
    assert all(word in header for word in ("播放", "保留最近 30 秒", "录音", "改动", "在小节上", "保存工作流", "音量"))
    assert page.get_by_label("音量").is_visible() and page.get_attribute("html", "lang") == "zh-CN"
    page.wait_for_function("() => document.querySelector('#figures').textContent.includes('断音 ')", timeout=PATIENCE)
    assert any(state in page.inner_text("#figures") for state in ("就绪", "正在播放")), "other tests may have played"
    context.close()
