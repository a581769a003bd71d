"""Pages in a browser: without a network, on a phone, in dark mode, and by keyboard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowertune import cli
from flowertune.commands import compose
from flowertune.config.schema import Config

pytestmark = pytest.mark.browser

WIDTHS = (1200, 390)
SCHEMES = ("light", "dark")
MANY = tuple(f"class {number}" for number in range(102))


@pytest.fixture(scope="module")
def pages(
    leave_run: Callable[..., Path],
    finish: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A run with odd names, a run with many classes, and a comparison of runs."""
    folder = tmp_path_factory.mktemp("pages")
    places = {name: folder / f"{name}.html" for name in ("odd", "many", "several")}
    runs = {"odd": [leave_run(folder / "odd")], "many": [leave_run(folder / "many", classes=MANY)]}

    def finished(config: Config) -> int:
        return finish(config, val=0.5, test=0.4 if config.method == "lora" else 0.5)

    for method in ("lora", "mixup"):
        for seed in (1, 2):
            words = (f"method={method}", f"seed={seed}", f"run.root={folder / 'several'}")
            compose.run([*words, f"run.name={method}{seed}"], finished)
    runs["several"] = sorted((folder / "several").glob("[lm]*"))
    for name, place in places.items():
        assert cli.main(["report", *map(str, runs[name]), "--output", str(place)]) == 0
    return places


def shown(browser: Any, page: Path, width: int = 1200, scheme: str = "light") -> None:
    browser.show(page.as_uri(), width, scheme)


@pytest.mark.parametrize("name", ["odd", "many", "several"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_loads_without_requests_and_never_scrolls_sideways(
    browser: Any,
    asked_for: Callable[[], list[str]],
    pages: dict[str, Path],
    name: str,
    width: int,
    scheme: str,
) -> None:
    shown(browser, pages[name], width, scheme)
    assert browser.get_log("browser") == []
    asked = asked_for()
    assert asked.count(pages[name].as_uri()) == 1  # requests are recorded
    assert [each for each in asked if not each.startswith(("data:", pages[name].as_uri()))] == []

    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    figures = browser.find_elements("css selector", "figure svg")
    assert len(figures) >= {"several": 2}.get(name, 8)
    assert all(figure.rect["width"] > 300 and figure.rect["height"] > 100 for figure in figures)
    broken = "return [...document.images].filter(i => !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    unnamed = "return [...document.images].filter(i => !i.alt).length"
    assert browser.execute_script(unnamed) == 0


@pytest.mark.parametrize("name", ["odd", "several"])
def test_text_and_figures_have_contrast_in_light_and_dark_mode(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    def luminance(color: str) -> float:
        numbers = [float(each) / 255 for each in color.split("(")[1].rstrip(")").split(",")[:3]]
        linear = [n / 12.92 if n <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for n in numbers]
        return sum(w * n for w, n in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    grounds = []
    for scheme in SCHEMES:
        shown(browser, pages[name], scheme=scheme)
        of = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        ground = luminance(browser.execute_script(of, "body", "backgroundColor"))
        grounds.append(ground)
        for selector, what in (
            ("p", "color"), ("a", "color"), ("figcaption", "color"), ("caption", "color"),
            ("figure svg text", "fill"),
        ):  # fmt: skip
            color = luminance(browser.execute_script(of, selector, what))
            light, dark = max(color, ground), min(color, ground)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, selector)  # WCAG's AA
    assert grounds[0] > 0.8 > 0.1 > grounds[1]


def test_the_gallery_opens_by_click_and_by_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains, Keys

    def focused() -> str:
        text: str = browser.execute_script("return document.activeElement.textContent")
        return text

    shown(browser, pages["odd"])
    card = browser.find_element("css selector", ".gallery button")
    detail = browser.find_element("id", card.get_attribute("popovertarget"))
    assert not detail.is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", card)
    card.click()
    assert detail.is_displayed()
    assert len(detail.find_elements("css selector", "img")) == 2
    assert "Nearest training image" in detail.text
    assert focused() == "Close"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert not detail.is_displayed()
    assert focused() == card.get_property("textContent")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert detail.is_displayed()
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not detail.is_displayed()


def test_the_first_tab_leads_to_the_skip_link(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains, Keys

    shown(browser, pages["odd"], width=390)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to content"
    assert skip.rect["x"] >= 0
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) == "solid"


def test_a_matrix_of_many_classes_can_be_enlarged_until_its_names_are_legible(
    browser: Any, pages: dict[str, Path]
) -> None:
    shown(browser, pages["many"], width=390)
    box = browser.find_element("css selector", ".enlargeable input")
    text = browser.find_element("css selector", ".enlargeable svg text")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    before = text.rect["width"]
    box.click()
    # width, which is the height of a letter in rotated names
    assert text.rect["width"] > 1.5 * before
    assert text.rect["width"] >= 7
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
