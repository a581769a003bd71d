"""Downloads over failing networks: a partial file never counts as complete."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowertune.data import download
from flowertune.data.dataset import ImageDataset
from flowertune.data.sources.flowers102 import ARCHIVE, LABELS, SPLIT_IDS

Get = Callable[..., ImageDataset]
Names = Callable[[Path], set[str]]
Refusal = Callable[[Callable[[], object]], str]


@pytest.mark.parametrize("name", [LABELS, SPLIT_IDS, ARCHIVE])
def test_a_connection_that_ends_in_the_middle_leaves_nothing_half_done(
    tmp_path: Path, server: Any, name: str, refusal: Refusal, get: Get, names: Names
) -> None:
    server.cut = {name: "close"}
    message = refusal(lambda: get(tmp_path))
    assert f"cannot fetch {server.url}/{name}: the connection ended after" in message
    assert not names(tmp_path) & {name, f".{name}.part", "jpg"}
    server.cut = {}
    assert len(get(tmp_path).splits["train"]) == 4


def test_leftovers_of_a_killed_process_do_not_count_as_complete(
    tmp_path: Path, server: Any, get: Get, names: Names
) -> None:
    (tmp_path / f".{ARCHIVE}.part").write_bytes(server.files[ARCHIVE][:50])
    (tmp_path / "jpg.building" / "jpg").mkdir(parents=True)
    (tmp_path / "jpg.building" / "jpg" / "image_00001.jpg").write_bytes(b"ph")
    photos = get(tmp_path)
    assert names(tmp_path) == {ARCHIVE, LABELS, SPLIT_IDS, "jpg"}
    assert (tmp_path / "jpg" / "image_00001.jpg").read_bytes() == b"photo 1"
    assert len(photos.splits["test"]) == 4


def test_another_file_than_expected(
    tmp_path: Path, server: Any, refusal: Refusal, get: Get, names: Names
) -> None:
    expected = server.md5()
    server.files[ARCHIVE] = b"<html>please log in</html>"
    message = refusal(lambda: get(tmp_path, md5=expected))
    assert f"{ARCHIVE}: MD5 is " in message
    assert expected[ARCHIVE] in message
    assert names(tmp_path) == {LABELS, SPLIT_IDS}


def test_two_at_once_fetch_once(tmp_path: Path, server: Any, get: Get) -> None:
    second: list[ImageDataset] = []
    said: list[str] = []

    def watch(description: str, _done: int, _total: int | None) -> None:
        said.append(description)

    other = threading.Thread(target=lambda: second.append(get(tmp_path, progress=watch)))

    def start_other(description: str, done: int, _total: int | None) -> None:
        if description.startswith("unpacking") and done == 1:
            other.start()
            while not said:  # it waits for us now
                time.sleep(0.01)

    first = get(tmp_path, progress=start_other)
    other.join(10)
    assert second == [first]
    assert said == ["waiting for another process to fetch the same files"]
    assert set(server.asked.values()) == {1}


def no_way_on(message: str, root: Path) -> None:
    assert "data=synthetic" in message
    assert "data=folder" in message
    assert f"put {ARCHIVE}, {LABELS} and {SPLIT_IDS} into {root}" in message


def test_no_server_at_all(tmp_path: Path, refusal: Refusal, get: Get) -> None:
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        start = time.monotonic()
        message = refusal(lambda: get(tmp_path, url=url))
    assert time.monotonic() - start < 10
    assert f"cannot fetch {url}/{LABELS}: no connection" in message
    no_way_on(message, tmp_path)


def test_a_server_without_the_file(tmp_path: Path, server: Any, refusal: Refusal, get: Get) -> None:
    expected = server.md5()
    del server.files[ARCHIVE]
    message = refusal(lambda: get(tmp_path, md5=expected))
    assert "the server responded 404 Not Found" in message
    no_way_on(message, tmp_path)


@pytest.mark.parametrize("how", ["mute", "stall"])
def test_a_network_that_falls_silent(
    tmp_path: Path,
    server: Any,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
    get: Get,
    names: Names,
) -> None:
    assert download.READ_TIMEOUT_S <= 8
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.5)
    server.cut = {LABELS: how}
    start = time.monotonic()
    message = refusal(lambda: get(tmp_path))
    assert time.monotonic() - start < 3
    assert "cannot fetch" in message
    no_way_on(message, tmp_path)
    assert names(tmp_path) == set()


def test_a_name_server_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal, get: Get
) -> None:
    silence = threading.Event()
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: silence.wait(20))
    message = refusal(lambda: get(tmp_path, url="http://flowers.invalid"))
    silence.set()
    assert "no response within" in message


def test_an_invalid_url_is_refused(tmp_path: Path, refusal: Refusal, get: Get) -> None:
    message = refusal(lambda: get(tmp_path, url="file:///etc"))
    assert "data.url=file:///etc: must start with http" in message
