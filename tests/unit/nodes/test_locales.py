"""Other languages: every text of the schemas is translated, nothing else is, and no translation is older than its
English."""

from __future__ import annotations

import re

import pytest
from ostinato.nodes import NODES
from ostinato.tools.help import pages
from ostinato.tools.help.locales import LOCALES, changed, english, flat, read

LANGUAGES = sorted(path.name for path in LOCALES.iterdir())
FORBIDDEN = "{}@|"  # vue-i18n, which ComfyUI's frontend 1.43 reads texts with, gives them a meaning

each_language = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture(autouse=True)
def no_engines(places, tmp_path):
    """The choosers of files show none, so that tooltips are the same on each machine."""
    places(data=tmp_path)


def test_there_is_a_second_language():
    assert LANGUAGES == sorted(pages.LANGUAGES.keys() - {"en"})


@each_language
def test_every_text_of_the_schemas_is_translated_and_no_other(language):
    assert flat(read(language, "nodeDefs")).keys() == flat(english()).keys()


@each_language
def test_no_text_is_empty_or_read_as_more_than_text(language):
    for name in ("nodeDefs", "main", "commands", "settings"):
        for key, text in flat(read(language, name)).items():
            assert text.strip() == text and text and not set(text) & set(FORBIDDEN), key


@each_language
def test_translations_are_of_the_english_of_today(language):
    assert changed(language) == [], "translate these again, then run python -m tools.help.locales"


@each_language
def test_display_names_differ(language):
    names = [texts["display_name"] for texts in read(language, "nodeDefs").values()]
    assert len(set(names)) == len(names) and all(name.endswith(pages.OWN) for name in names)


@each_language
def test_categories_and_types_are_translated(language):
    schemas = [node.GET_SCHEMA() for node in NODES]
    kinds = {kind for s in schemas for end in (*s.inputs, *s.outputs) for kind in end.get_io_type().split(",")}
    main = read(language, "main")
    assert set(main["nodeCategories"]) == {part for s in schemas for part in s.category.split("/")}
    assert set(main["dataTypes"]) == {kind for kind in kinds if kind.startswith("OSTINATO_")}


@each_language
def test_options_and_numbers_stay_as_they_are(language):
    """A chooser shows its options in English in every language: a tooltip must name them so."""
    mine = flat(read(language, "nodeDefs"))
    for node in NODES:
        schema = node.GET_SCHEMA()
        for spec in schema.inputs:
            options = [o for o in getattr(spec, "options", None) or () if re.fullmatch(r"[A-Za-z0-9_]+", o)]
            named = {o for o in options if re.search(rf"\b{o}\b", spec.tooltip or "")}
            text = mine[f"{schema.node_id}.inputs.{spec.id}.tooltip"]
            assert {o for o in named if o not in text} == set(), f"{schema.node_id}.{spec.id}"


@each_language
def test_commands_and_settings_of_the_extension_are_translated(language):
    """ComfyUI writes an id's points as `_`."""
    source = (LOCALES.parent / "frontend" / "src" / "commands.ts").read_text("utf-8")
    commands, settings = source.split("settings: [")
    for name, text in (("commands", commands), ("settings", settings)):
        ids = re.findall(r'id: "(Ostinato\.\w+)"', text)
        assert ids and {id.replace(".", "_") for id in ids} == set(read(language, name))
    words = {word for found in re.findall(r"category: \[(.+?)\]", settings) for word in re.findall(r'"(\w+)"', found)}
    assert words == set(read(language, "main")["settingsCategories"])
    told = len(re.findall("tooltip:", settings))
    assert told == sum("tooltip" in setting for setting in read(language, "settings").values())


@each_language
def test_the_words_of_the_extension_are_translated_and_no_other(language):
    """They are looked up by their English; the places of values stay."""
    sources = "".join(path.read_text("utf-8") for path in (LOCALES.parent / "frontend" / "src").glob("*.ts"))
    said = set(re.findall(r'worded\(\s*"(.+?)"', sources))
    translated = read(language, "main")["ostinato"]
    assert set(translated) == said
    for english_text, text in translated.items():
        assert sorted(re.findall(r"%\d", text)) == sorted(re.findall(r"%\d", english_text)), english_text
