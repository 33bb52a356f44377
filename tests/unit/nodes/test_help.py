"""Help pages: each node has one in each language, and what it names is there."""

from __future__ import annotations

import re

import pytest
from ostinato.cli.main import app
from ostinato.nodes.shared.run import widget_of
from ostinato.tools.help import pages
from ostinato.tools.help.effects import CURVES
from ostinato.tools.help.pictures import NAME, picture, place
from typer.main import get_command

NODES, WORDS = list(pages.schemas()), pages.LANGUAGES
LARGEST = 1_000_000  # bytes of all pictures
every_page = pytest.mark.parametrize("language", WORDS)


@pytest.fixture(autouse=True)
def no_engines(places, tmp_path):
    """The choosers of files show none, so that tooltips are the same on each machine."""
    places(data=tmp_path)
    pages.schemas.cache_clear()


def written(language):
    return {node: pages.page(node, language).read_text("utf-8") for node in NODES}


def by_hand(text, language):
    """What was written by hand: without the tables."""
    return re.split(f"\n{WORDS[language].inputs}\n|\n{WORDS[language].outputs}\n", text)[0]


@every_page
def test_every_node_has_a_page_and_every_page_a_node(language):
    assert {path.parent.name for path in pages.DOCS.glob(f"*/{language}.md")} == set(NODES)


def test_nothing_else_lies_beside_the_pages():
    there = {path.name for path in pages.DOCS.rglob("*") if path.is_file()}
    assert there == {NAME, *(f"{language}.md" for language in WORDS)}


@every_page
def test_the_parts_of_a_page(language):
    words = WORDS[language]
    for node, text in written(language).items():
        title = next(title for title, id in pages.titles(language).items() if id == node)
        assert text.startswith(f"# {title}\n\n![")
        schema = pages.schemas()[node]
        tables = [words.inputs] * bool(schema.inputs) + [words.outputs] * bool(schema.outputs)
        headings = [line for line in text.splitlines() if line.startswith("## ")]
        assert headings == [words.neighbours, words.wrong, *tables], node
        first, second = by_hand(text, language).split(f"\n{words.wrong}\n")
        assert "\n- " in second and len(first.split(f"\n{words.neighbours}\n")[0].split("\n\n")[2]) > 40, node


@every_page
def test_links_lead_to_pictures_that_are_there(language):
    """ComfyUI resolves them below `docs`, not below the page's own folder."""
    for node, text in written(language).items():
        links = re.findall(r"\]\(([^)]*)\)", text)
        assert links == [f"{node}/{NAME}"] and (pages.DOCS / links[0]).is_file()
        assert not re.search(r"https?:|<(?!br>)", text)


def test_pictures_are_small():
    sizes = [path.stat().st_size for path in pages.DOCS.rglob(NAME)]
    assert sum(sizes) < LARGEST


@every_page
def test_the_tables_are_the_schemas(language):
    for node, text in written(language).items():
        assert text == pages.with_tables(text, node, language), f"{node}: run python -m tools.help.pages"


@every_page
def test_named_nodes_are_nodes(language):
    for node, text in written(language).items():
        named = set(re.findall(r"\*\*(.+?)\*\*", text))
        assert named <= pages.titles(language).keys() | pages.CORE.keys(), node


@every_page
def test_neighbours_connect(language):
    for node, text in written(language).items():
        own = next(title for title, id in pages.titles(language).items() if id == node)
        taken, given = pages.ends_of(own, language)
        before, after = pages.neighbours(text, language)
        assert before or after, node
        for name in before:
            assert pages.links(pages.ends_of(name, language)[1], taken), f"{name} -> {own}"
        for name in after:
            assert pages.links(given, pages.ends_of(name, language)[0]), f"{own} -> {name}"


def known(node, text, language):
    """What may stand in `code`: inputs, outputs and options of the nodes that a page names, and its own."""
    named = {pages.titles(language).get(name) for name in re.findall(r"\*\*(.+?)\*\*", text)} | {node}
    for schema in (pages.schemas()[id] for id in named - {None}):
        for spec in schema.inputs:
            yield spec.id
            yield from getattr(widget_of(spec), "options", None) or ()
            yield str(getattr(widget_of(spec), "default", ""))
        yield from (out.display_name for out in schema.outputs)


@every_page
def test_named_inputs_exist(language):
    commands = {f"ostinato {name}" for name in get_command(app).commands}
    tokens = {"%date:yyyy-MM-dd%", "%Node.widget%"}
    for node, text in written(language).items():
        code = set(re.findall(r"`([^`]+)`", by_hand(text, language)))
        assert code <= {*known(node, text, language), *commands, *tokens}, node


def test_pages_of_a_language_name_the_same():
    """The same neighbours, and as many things that go wrong."""
    english = written("en")
    for language in WORDS.keys() - {"en"}:
        titles = {**pages.titles(language), **{name: name for name in pages.CORE}}
        for node, text in written(language).items():
            mine = [[titles[name] for name in side] for side in pages.neighbours(text, language)]
            ids = {**pages.titles(), **{name: name for name in pages.CORE}}
            assert mine == [[ids[name] for name in side] for side in pages.neighbours(english[node], "en")], node
            wrong = [by_hand(t, la).split(f"{WORDS[la].wrong}\n")[1].count("\n- ") for t, la in
                     ((text, language), (english[node], "en"))]  # fmt: skip
            assert wrong[0] == wrong[1], node


@pytest.mark.parametrize("node", NODES)
def test_pictures_show_the_schema(node):
    drawn = (pages.DOCS / node / NAME).read_text("utf-8")
    assert "".join(place(node)[0]) in drawn, f"run python -m tools.help.pictures {node}"
    if node in CURVES:
        assert drawn == picture(node, *CURVES[node]())
