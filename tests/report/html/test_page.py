"""A page is one file without external requests, in which no name becomes markup."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flowertune.report.figures import style
from flowertune.report.figures.style import Figure
from flowertune.report.html.page import render

ODD = "<script>alert(1)</script>\"'&"


class Read(HTMLParser):
    """Parse elements with attributes, and the text; elements must be closed in order."""

    VOID = ("meta", "use", "path", "rect")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def drawing(height: float = 3) -> Figure:
    figure, (axes,) = style.new_figure(4, 3)
    axes.plot([1, 2], [1, height], color=style.SERIES[0], label="first")
    style.add_legend(axes)
    return Figure("drawing", figure, ODD, ODD)


@pytest.fixture(scope="module")
def page() -> Read:
    table = ([ODD, "n"], [[ODD, "1"]])
    group = {
        "protocol": ODD, "tables": [(*table, ODD)], "notes": [ODD], "cost_figures": [drawing()],
        "sweep_figure": drawing(4), "pairs": table, "pair_lines": [ODD], "pairs_note": ODD,
        "runs": table, "differing": table,
    }  # fmt: skip
    return Read(render("comparison.html.jinja", ODD, lead=[ODD], groups=[group]))


def test_names_never_become_markup(page: Read) -> None:
    assert page.text.count(ODD) >= 12
    assert "script" not in {tag for tag, _ in page.elements}
    assert [each["aria-label"] for _, each in page.elements if each.get("role") == "img"] == [
        ODD, ODD,
    ]  # fmt: skip


def test_it_requests_nothing_and_its_links_have_targets(page: Read) -> None:
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    for tag, each in page.elements:
        assert tag not in ("link", "script", "img", "iframe")
        for name in ("href", "xlink:href", "src"):
            if name in each:
                assert str(each[name]).removeprefix("#") in ids, each
    referred = re.findall(r"url\((.*?)\)", str(page.elements) + page.text)
    assert {each.strip("#") for each in referred} <= set(ids)


def test_a_figure_takes_the_colors_of_the_page_and_keeps_text_as_text() -> None:
    svg = drawing().themed_svg
    assert style.INK not in svg
    assert "currentColor" in svg
    assert "var(--series-1)" in svg
    assert "#ffffff" not in svg
    assert re.search(r"<text[^>]*>first</text>", svg)
    assert svg == drawing().themed_svg


def test_a_figure_is_saved_as_png_and_svg(tmp_path: Path) -> None:
    Figure("empty", style.new_figure(4, 3)[0], "", "").save(tmp_path)
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "empty.svg").read_text().startswith("<?xml")
