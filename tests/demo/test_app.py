"""`flowertune demo` in Chromium, with images and other files."""

import base64
import http.client
import json
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

pytestmark = [pytest.mark.demo, pytest.mark.usefixtures("quiet_commands")]

SECONDS = 60  # timeout, for busy machines
DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], arguments[2], { type: "image/png" }));
if (arguments[0] === "paste") {
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
} else {
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector(arguments[0]).dispatchEvent(event);
    if (kind === "drop" && !event.defaultPrevented) throw new Error("the page would be left");
  }
}
"""


@dataclass
class Demo:
    """A served page: its process, its address, and the folders that must stay unchanged."""

    process: "subprocess.Popen[str]"
    url: str
    watched: tuple[Path, ...]
    temporary: Path

    def files(self) -> set[Path]:
        """Every path in the watched folders."""
        return {path for folder in self.watched for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def demo(lora: Path, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    home, here, temporary = (folder / name for name in ("home", "here", "tmp"))
    for each in (home, here, temporary):
        each.mkdir()
    environment = {
        **os.environ, "FLOWERTUNE_CACHE": str(place / "cache"), "HOME": str(home),
        "TMPDIR": str(temporary), "ALL_PROXY": "socks5://127.0.0.1:9", "GRADIO_SHARE": "True",
        "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_DEFAULT_CONCURRENCY_LIMIT": "8",
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
    """`page(width, scheme)`: open the page and return its upload input."""

    def page(width: int = 1200, scheme: str = "light") -> Any:
        browser.show(demo.url, width, scheme)
        return until(browser, lambda: browser.find_element("css selector", PLACE))

    return page


PLACE = "#photos .upload-container:not(.icon-mode) input[type=file]"  # while empty


def until(browser: Any, holds: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    ignored = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(browser, SECONDS, 0.1, ignored).until(lambda _: holds())


def cards(browser: Any, count: int) -> dict[str, Any]:
    """The cards by title, once there are `count` and the upload box is empty."""

    def whole() -> Any:
        found = browser.find_elements("css selector", "#answers article")
        free = browser.find_elements("css selector", PLACE)
        return found if len(found) == count and free else None

    found: list[Any] = until(browser, whole)
    return {card.find_element("css selector", "h2").text: card for card in found}


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_predictions_equal_those_of_python_and_no_other_host_is_contacted(
    browser: Any,
    asked_for: Callable[[], list[str]],
    page: Callable[..., Any],
    demo: Demo,
    lora: Path,
    photos: list[Path],
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    chosen = [shutil.copy(photo, tmp_path / f"{n}.png") for n, photo in enumerate(photos[:3])]
    page(width, scheme).send_keys("\n".join(map(str, chosen)))
    found = cards(browser, 3)
    expected = flowertune.load(lora).predict(chosen, top_k=5)
    for photo, prediction in zip(chosen, expected, strict=True):
        card = found[photo.name]
        lines = card.find_elements("css selector", ".ranked li")
        assert [line.find_element("css selector", ".name").text for line in lines] == list(
            prediction.classes
        )
        shares = [line.find_element("css selector", ".share").text for line in lines]
        assert shares == [f"{100 * share:.1f}%" for share in prediction.probabilities]
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


def test_unreadable_files_get_a_message_and_the_next_image_its_prediction(
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
    told = {name: card.text for name, card in cards(browser, len(uploads)).items()}
    assert "not an image" in told["text.jpg"]
    assert "empty file" in told["empty.png"]
    assert "too large: more than 178,956,970 pixels" in told["huge.png"]
    assert "Unreadable image" in told["cut.png"]
    assert "that support" in told[photos[0].name]


def said(browser: Any) -> str:
    text: str = browser.find_element("id", "said").text
    return text


def test_files_that_are_too_large_or_too_many_are_left_out(
    browser: Any, page: Callable[..., Any], photos: list[Path], tmp_path: Path
) -> None:
    with (tmp_path / "film.png").open("wb") as film:
        film.truncate(64 * 2**20 + 1)
    page().send_keys(f"{tmp_path / 'film.png'}\n{photos[0]}")
    (card,) = cards(browser, 1).values()
    assert "that support" in card.text
    assert "Left out (larger than 64 MiB): film.png" in said(browser)

    many = "\n".join(map(str, photos[:26]))
    page().send_keys(many)
    cards(browser, 24)
    assert "2 left out: at most 24 images at once" in said(browser)
    assert "24 of 24 images done" in said(browser)
    browser.find_element("css selector", PLACE).send_keys(many)  # the page shows up to 48
    cards(browser, 48)
    browser.find_element("css selector", PLACE).send_keys(str(photos[0]))
    cards(browser, 1)


@pytest.mark.parametrize("where", ["paste", "body", "#photos", "#lead p"])
def test_an_image_can_be_pasted_and_dropped_while_others_are_in_progress(
    browser: Any, page: Callable[..., Any], photos: list[Path], tmp_path: Path, where: str
) -> None:
    chosen = [shutil.copy(photo, tmp_path / f"{n}.png") for n, photo in enumerate(photos[:6])]
    page().send_keys("\n".join(map(str, chosen)))
    content = base64.b64encode(photos[1].read_bytes()).decode()
    browser.execute_script(DROP, where, content, "one more.png")
    found = cards(browser, 7)
    assert "that support" in found["one more.png"].text
    assert set(found) == {"one more.png", *(f"{n}.png" for n in range(6))}


def test_requests_of_other_pages_and_crafted_requests_are_refused(demo: Demo, lora: Path) -> None:
    address = demo.url.removeprefix("http://")

    def status(path: str, *, asked: Any = None, method: str | None = None, **headers: str) -> int:
        connection = http.client.HTTPConnection(address, timeout=SECONDS)
        body = None if asked is None else json.dumps(asked)
        headers = {"Host": address, "Content-Type": "application/json", **headers}
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, body, headers)
        return connection.getresponse().status

    assert status("/") == 200
    assert status("/", Host="evil.example") == 400
    assert status("/", Origin=demo.url) == 200
    for origin in ("http://127.0.0.1:8888", "http://evil.example", "null", "http://["):
        assert status("/", Origin=origin) == 403
        assert status("/gradio_api/upload", asked={}, Origin=origin) == 403
        preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert status("/gradio_api/upload", method="OPTIONS", **preflight) == 403
    for path in ("/etc/passwd", lora / "config.yaml"):
        assert status(f"/gradio_api/file={path}") == 404
    for path in ("run/predict", "call/respond", "process_recording", "vibe-edit", "stream/x"):
        assert status(f"/gradio_api/{path}", asked={}) == 404

    def join(path: Any) -> int:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [[file], None], "fn_index": 0, "session_hash": "s"}
        return status("/gradio_api/queue/join", asked=asked)

    elsewhere = ("/etc/passwd", "/dev/zero", str(lora / "config.yaml"), "x.png", "..", "", "\0")
    for path in (*elsewhere, "http://127.0.0.1:9/x.png", 3, None, ["x"]):
        assert join(path) == 403
    (folder,) = (path for path in demo.temporary.iterdir() if path.name.startswith("flowertune"))
    assert join(f"{folder}/../../home/x.png") == 403
    assert join(f"{folder}/x.png") != 403
    many = {"data": ["x" * 2**18], "fn_index": 0, "session_hash": "s"}
    assert status("/gradio_api/queue/join", asked=many) == 413
    nested: Any = []
    for _ in range(500):
        nested = [nested]
    assert status("/gradio_api/queue/join", asked=nested) in (400, 422)
    too_many = {"Content-Length": str(2 * 2**30 + 1)}  # refused before it is sent
    assert status("/gradio_api/upload", asked={}, **too_many) == 507


def test_it_writes_only_into_a_temporary_folder_and_removes_it(
    browser: Any, page: Callable[..., Any], demo: Demo, photos: list[Path], tmp_path: Path
) -> None:
    before = demo.files()
    shutil.copy(photos[7], tmp_path / "mine.png")
    page().send_keys(str(tmp_path / "mine.png"))
    cards(browser, 1)
    assert demo.files() == before
    assert len(list(demo.temporary.rglob("mine.png"))) == 1
    browser.find_element("css selector", PLACE).send_keys("\n".join(map(str, photos[:24])))
    until(browser, lambda: "of 24 images done" in said(browser))
    demo.process.send_signal(signal.SIGINT)  # while in progress
    out, _ = demo.process.communicate(timeout=SECONDS)
    assert demo.process.returncode == 0
    assert "Traceback" not in out
    assert demo.files() == before
    left = {path.name for path in demo.temporary.rglob("*")}
    assert {name for name in left if re.search("gradio|flowertune|mine", name)} == set()
