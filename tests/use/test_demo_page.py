"""`flowertune demo` as a person meets it: in Chromium, with photos and with what are none."""

import base64
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import flowertune

pytestmark = pytest.mark.demo

SECONDS = 60  # to wait for anything, on a machine that is busy
DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], arguments[2], { type: "image/png" }));
if (arguments[0] === "paste") {
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
} else {
  const place = document.querySelector("#photos button");
  for (const kind of ["dragenter", "dragover", "drop"]) {
    place.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true }));
  }
}
"""


@dataclass
class Demo:
    """A page that is served: its process, its address, and what the process may write to."""

    process: "subprocess.Popen[str]"
    url: str
    watched: tuple[Path, ...]
    temporary: Path

    def files(self) -> set[Path]:
        """All there is where a program might leave something."""
        return {path for folder in self.watched for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def demo(lora: Path, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    home, here, temporary = (folder / name for name in ("home", "here", "tmp"))
    for each in (home, here, temporary):
        each.mkdir()
    environment = {
        **os.environ, "FLOWERTUNE_CACHE": str(place / "cache"), "HOME": str(home),
        "TMPDIR": str(temporary), "http_proxy": "http://127.0.0.1:9", "GRADIO_SHARE": "True",
        "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ALLOWED_PATHS": "/",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "flowertune", "demo", str(lora), "--photos", "30"],
        cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while (found := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
        line = process.stdout.readline()
        assert line, said
        said += line
    yield Demo(process, found[0], (home, here, lora, place / "cache"), temporary)
    process.kill()
    process.wait()


@pytest.fixture
def photos(drawn: Path) -> list[Path]:
    return sorted((drawn / "test").rglob("*.png"))


@pytest.fixture
def page(browser: Any, demo: Demo) -> Callable[..., Any]:
    """`page(width, scheme)`: the page, opened anew, with its place for photos."""

    def page(width: int = 1200, scheme: str = "light") -> Any:
        browser.show(demo.url, width, scheme)
        return until(browser, lambda: browser.find_element("css selector", PLACE))

    return page


PLACE = "#photos input[type=file]"


def until(browser: Any, holds: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    ignored = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(browser, SECONDS, 0.1, ignored).until(lambda _: holds())


def cards(browser: Any, count: int) -> list[Any]:
    """So many cards, when the last is there and the place is free again."""

    def whole() -> Any:
        found = browser.find_elements("css selector", "#answers article")
        free = browser.find_elements("css selector", PLACE)
        return found if len(found) == count and free else None

    found: list[Any] = until(browser, whole)
    return found


def title(card: Any) -> str:
    text: str = card.find_element("css selector", "h2").text
    return text


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_photos_are_answered_as_python_answers_them_and_no_one_else_is_asked(
    browser: Any,
    asked_for: Callable[[], list[str]],
    page: Callable[..., Any],
    demo: Demo,
    lora: Path,
    photos: list[Path],
    width: int,
    scheme: str,
) -> None:
    chosen = photos[:3]
    page(width, scheme).send_keys("\n".join(map(str, chosen)))
    found = cards(browser, 3)
    expected = flowertune.load(lora).predict(chosen, top_k=5)
    for card, photo, prediction in zip(found, chosen, expected, strict=True):
        assert title(card) == photo.name
        lines = card.find_elements("css selector", ".ranked li")
        assert [line.find_element("css selector", ".name").text for line in lines] == list(
            prediction.classes
        )
        shares = [line.find_element("css selector", ".share").text for line in lines]
        assert shares == [f"{100 * share:.1f} %" for share in prediction.probabilities]
        bars = [line.find_element("css selector", ".bar").rect["width"] for line in lines]
        assert bars == sorted(bars, reverse=True)
        assert bars[0] > 10
        assert len(card.find_elements("css selector", ".seen img")) == 2
        assert len(card.find_elements("css selector", ".nearest img")) == 5
    broken = "return [...document.images].filter(i => !i.naturalWidth || !i.alt).length"
    assert browser.execute_script(broken) == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [each for each in browser.get_log("browser") if each["level"] == "SEVERE"] == []
    asked = asked_for()
    assert f"{demo.url}/" in asked
    others = [each for each in asked if not each.startswith((demo.url, "data:", "chrome"))]
    assert others == []


def test_whatever_is_uploaded_gets_a_message_and_the_next_photo_its_answer(
    browser: Any, page: Callable[..., Any], photos: list[Path], tmp_path: Path
) -> None:
    text, empty, huge, cut = (
        tmp_path / name for name in ("text.jpg", "empty.png", "huge.png", "cut.png")
    )
    text.write_text("no photo at all")
    empty.touch()
    Image.new("1", (20_000, 20_000)).save(huge)
    cut.write_bytes(photos[0].read_bytes()[:500])
    uploads = (text, empty, huge, cut, photos[0])
    page().send_keys("\n".join(map(str, uploads)))
    found = cards(browser, len(uploads))
    told = {title(card): card.text for card in found}
    assert "not an image" in told["text.jpg"]
    assert "an empty file" in told["empty.png"]
    assert "too large: more than 178,956,970 pixels" in told["huge.png"]
    assert "gives no picture" in told["cut.png"]
    assert "speak for" in told[photos[0].name]

    with (tmp_path / "film.png").open("wb") as film:
        film.truncate(65 * 2**20)
    browser.find_element("css selector", PLACE).send_keys(str(tmp_path / "film.png"))
    until(browser, lambda: "maximum allowed size" in browser.find_element("tag name", "body").text)

    page().send_keys("\n".join(map(str, photos[:26])))
    assert len(cards(browser, 24)) == 24
    assert "2 more photos were left out" in browser.find_element("id", "answers").text


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_photo_can_be_pasted_and_dropped(
    browser: Any, page: Callable[..., Any], photos: list[Path], way: str
) -> None:
    page()
    content = base64.b64encode(photos[1].read_bytes()).decode()
    browser.execute_script(DROP, way, content, f"{way}.png")
    (card,) = cards(browser, 1)
    assert title(card) == f"{way}.png"
    assert "speak for" in card.text


def test_no_other_page_and_no_crafted_request_gets_at_anything(demo: Demo, lora: Path) -> None:
    address = demo.url.removeprefix("http://")

    def status(path: str, host: str = address, data: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(address, timeout=SECONDS)
        kind = {"Content-Type": "application/json"} if data else {}
        connection.request("POST" if data else "GET", path, data, {"Host": host, **kind})
        answer = connection.getresponse()
        return answer.status, answer.read()

    assert status("/")[0] == 200
    assert status("/", host="evil.example")[0] == 400
    for path in ("/etc/passwd", lora / "config.yaml"):
        code, content = status(f"/gradio_api/file={path}")
        assert code == 403
        assert b"root:" not in content
        assert b"seed" not in content


def test_it_writes_into_a_temporary_folder_alone_and_ends_with_it(
    browser: Any, page: Callable[..., Any], demo: Demo, photos: list[Path], tmp_path: Path
) -> None:
    before = demo.files()
    shutil.copy(photos[7], tmp_path / "mine.png")
    page().send_keys(str(tmp_path / "mine.png"))
    cards(browser, 1)
    assert demo.files() == before
    assert len(list(demo.temporary.rglob("mine.png"))) == 1
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(SECONDS) == 0
    assert demo.files() == before
    left = {path.name for path in demo.temporary.rglob("*")}
    assert {name for name in left if re.search("gradio|flowertune|mine", name)} == set()
