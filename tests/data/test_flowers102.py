"""The source against an archive of the official layout, served on the loopback."""

import hashlib
import http.server
import io
import socket
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import Flowers102

from flowertune.data import download
from flowertune.data.photos import PhotoSet
from flowertune.data.sources import flowers102
from flowertune.data.sources.flowers102 import ARCHIVE, LABELS, SPLIT_IDS, Release
from flowertune.data.sources.flowers102_names import CLASS_NAMES

Refusal = Callable[[Callable[[], object]], str]
PHOTOS = 12


class LoopbackServer:
    """Serves `files`; `cut` names those whose connection ends, or stalls, in the middle."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.stop = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/102"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.removeprefix("/102/")
        self.asked[name] += 1
        if name not in self.files:
            request.send_error(404)
            return
        body = self.files[name]
        cut = self.cut.get(name)
        if cut == "mute":
            self.stop.wait(20)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: len(body) // 2] if cut else body)
        if cut == "stall":
            request.wfile.flush()
            self.stop.wait(20)

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    serving = LoopbackServer()
    serving.files = {
        ARCHIVE: tgz({f"jpg/image_{n:05d}.jpg": b"photo %d" % n for n in range(1, PHOTOS + 1)}),
        LABELS: mat(labels=[3, 1, 2, 102, 1, 2, 3, 102, 1, 2, 3, 102]),
        SPLIT_IDS: mat(trnid=[2, 3, 1, 4], valid=[5, 6, 7, 8], tstid=[9, 10, 11, 12]),
    }
    yield serving
    serving.close()


def tgz(files: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        folder = tarfile.TarInfo("jpg")
        folder.type = tarfile.DIRTYPE
        folder.mode = 0o755
        tar.addfile(folder)
        for member in special:
            tar.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def mat(**arrays: list[int]) -> bytes:
    """As the official files have them: rows of doubles and bytes, counted from 1."""
    buffer = io.BytesIO()
    savemat(buffer, {name: np.array([values], dtype=np.uint8) for name, values in arrays.items()})
    return buffer.getvalue()


def release(server: LoopbackServer) -> Release:
    sums = {name: hashlib.md5(body).hexdigest() for name, body in server.files.items()}
    return Release(md5=sums, photos=PHOTOS)


def quiet(_description: str, _done: int, _total: int | None) -> None:
    pass


def get(
    root: Path,
    server: LoopbackServer,
    expected: Release | None = None,
    progress: download.Progress = quiet,
) -> PhotoSet:
    return flowers102.photo_set(
        root, url=server.url, progress=progress, release=expected or release(server)
    )


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".lock"}


def test_fetched_unpacked_and_listed(tmp_path: Path, server: LoopbackServer) -> None:
    root = tmp_path / "new" / "flowers102"
    seen: list[tuple[str, int, int | None]] = []
    photos = get(root, server, progress=lambda *step: seen.append(step))

    assert photos.protocol == "Flowers-102 official: train 4, val 4, test 4"
    assert (photos.name, photos.root, photos.class_names) == ("flowers102", root, CLASS_NAMES)
    train = photos.splits["train"]
    assert [path.name for path in train.paths] == [f"image_{n:05d}.jpg" for n in (2, 3, 1, 4)]
    assert train.labels == (0, 1, 2, 101)
    assert train.paths[0].read_bytes() == b"photo 2"
    assert names(root) == {ARCHIVE, LABELS, SPLIT_IDS, "jpg"}
    size = len(server.files[ARCHIVE])
    assert (f"fetching {ARCHIVE}", size, size) in seen
    assert seen[-1] == (f"unpacking {ARCHIVE}", PHOTOS, PHOTOS)

    again = get(root, server)
    assert again == photos
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize("name", [LABELS, SPLIT_IDS, ARCHIVE])
def test_a_connection_that_ends_in_the_middle_leaves_nothing_half_done(
    tmp_path: Path, server: LoopbackServer, name: str, refusal: Refusal
) -> None:
    server.cut = {name: "close"}
    message = refusal(lambda: get(tmp_path, server))
    assert f"cannot fetch {server.url}/{name}: the connection ended after" in message
    assert not names(tmp_path) & {name, f".{name}.part", "jpg"}
    server.cut = {}
    assert len(get(tmp_path, server).splits["train"]) == 4


def test_what_a_killed_process_left_is_not_taken_for_done(
    tmp_path: Path, server: LoopbackServer
) -> None:
    (tmp_path / f".{ARCHIVE}.part").write_bytes(server.files[ARCHIVE][:50])
    (tmp_path / ".unpacking" / "jpg").mkdir(parents=True)
    (tmp_path / ".unpacking" / "jpg" / "image_00001.jpg").write_bytes(b"ph")
    photos = get(tmp_path, server)
    assert names(tmp_path) == {ARCHIVE, LABELS, SPLIT_IDS, "jpg"}
    assert (tmp_path / "jpg" / "image_00001.jpg").read_bytes() == b"photo 1"
    assert len(photos.splits["test"]) == 4


def test_an_interrupted_unpacking_goes_on_without_fetching_again(
    tmp_path: Path, server: LoopbackServer
) -> None:
    def interrupt(description: str, done: int, _total: int | None) -> None:
        if description.startswith("unpacking") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, server, progress=interrupt)
    assert names(tmp_path) == {ARCHIVE, LABELS, SPLIT_IDS}
    get(tmp_path, server)
    assert server.asked[ARCHIVE] == 1


def test_another_file_than_expected(
    tmp_path: Path, server: LoopbackServer, refusal: Refusal
) -> None:
    expected = release(server)
    server.files[ARCHIVE] = b"<html>please log in</html>"
    message = refusal(lambda: get(tmp_path, server, expected))
    assert f"{ARCHIVE} is not the file it should be" in message
    assert expected.md5[ARCHIVE] in message
    assert names(tmp_path) == {LABELS, SPLIT_IDS}


def link(kind: bytes, name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


@pytest.mark.parametrize(
    "archive",
    [
        tgz({"../escaped.jpg": b"x"}),
        tgz({"jpg/../../escaped.jpg": b"x"}),
        tgz({"/tmp/flowertune-escaped.jpg": b"x"}),
        tgz({"..\\escaped.jpg": b"x"}),
        tgz({"jpg/out/escaped.jpg": b"x"}, link(tarfile.SYMTYPE, "jpg/out", "../..")),
        tgz({}, link(tarfile.LNKTYPE, "jpg/image_00001.jpg", "/etc/hostname")),
        tgz({}, link(tarfile.CHRTYPE, "jpg/image_00001.jpg", "")),
    ],
    ids=["dots", "dots inside", "absolute", "backslash", "symlink", "hard link", "device"],
)
@pytest.mark.parametrize("has_filter", [True, False])
def test_an_entry_that_leads_out_is_refused(
    tmp_path: Path,
    server: LoopbackServer,
    archive: bytes,
    has_filter: bool,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    if not has_filter:  # Python 3.10.11 and older
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    server.files[ARCHIVE] = archive
    root = tmp_path / "flowers102"
    assert "is not to be trusted" in refusal(lambda: get(root, server))
    assert names(root) == {ARCHIVE, LABELS, SPLIT_IDS}
    assert names(tmp_path) == {"flowers102"}
    assert not Path("/tmp/flowertune-escaped.jpg").exists()


def test_an_archive_short_of_photos(
    tmp_path: Path, server: LoopbackServer, refusal: Refusal
) -> None:
    server.files[ARCHIVE] = tgz({f"jpg/image_{n:05d}.jpg": b"x" for n in range(1, PHOTOS)})
    assert f"holds 11 of {PHOTOS} photos" in refusal(lambda: get(tmp_path, server))
    assert "jpg" not in names(tmp_path)


def test_files_put_there_by_hand_are_used(tmp_path: Path, server: LoopbackServer) -> None:
    for name, body in server.files.items():
        (tmp_path / name).write_bytes(body)
    photos = flowers102.photo_set(
        tmp_path, url="not asked for", progress=quiet, release=release(server)
    )
    assert len(photos.splits["train"]) == 4
    (tmp_path / ARCHIVE).unlink()  # the unpacked photos are enough from now on
    assert get(tmp_path, server) == photos
    assert not server.asked


@pytest.mark.parametrize("name", [LABELS, SPLIT_IDS, ARCHIVE])
def test_a_wrong_file_put_there_is_named_and_kept(
    tmp_path: Path, server: LoopbackServer, name: str, refusal: Refusal
) -> None:
    (tmp_path / name).write_bytes(b"half of it")
    assert f"{tmp_path / name} is not the official file" in refusal(lambda: get(tmp_path, server))
    assert (tmp_path / name).read_bytes() == b"half of it"


def test_a_folder_that_somebody_unpacked_in_part_is_named(
    tmp_path: Path, server: LoopbackServer, refusal: Refusal
) -> None:
    get(tmp_path, server)
    (tmp_path / "jpg" / "image_00003.jpg").unlink()
    (tmp_path / "jpg" / "image_00004.jpg").write_bytes(b"")
    (tmp_path / "jpg" / "other.jpg").write_bytes(b"x")
    message = refusal(lambda: get(tmp_path, server))
    assert f"{tmp_path / 'jpg'} holds 10 of {PHOTOS} photos: remove the folder" in message


def test_two_at_once_fetch_once(tmp_path: Path, server: LoopbackServer) -> None:
    second: list[PhotoSet] = []
    said: list[str] = []

    def watch(description: str, _done: int, _total: int | None) -> None:
        said.append(description)

    other = threading.Thread(target=lambda: second.append(get(tmp_path, server, progress=watch)))

    def start_other(description: str, done: int, _total: int | None) -> None:
        if description.startswith("unpacking") and done == 1:
            other.start()
            while not said:  # it waits for us now
                time.sleep(0.01)

    first = get(tmp_path, server, progress=start_other)
    other.join(10)
    assert second == [first]
    assert said == ["waiting for another process that fetches the same files"]
    assert set(server.asked.values()) == {1}


def no_way_on(message: str, root: Path) -> None:
    assert "data=synthetic" in message
    assert "data=folder" in message
    assert f"put {ARCHIVE}, {LABELS} and {SPLIT_IDS} into {root}" in message


def test_no_server_at_all(tmp_path: Path, refusal: Refusal) -> None:
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        start = time.monotonic()
        message = refusal(lambda: flowers102.photo_set(tmp_path, url=url, progress=quiet))
    assert time.monotonic() - start < 10
    assert f"cannot fetch {url}/{LABELS}: no connection" in message
    no_way_on(message, tmp_path)


def test_a_server_without_the_file(
    tmp_path: Path, server: LoopbackServer, refusal: Refusal
) -> None:
    expected = release(server)
    del server.files[ARCHIVE]
    message = refusal(lambda: get(tmp_path, server, expected))
    assert "the server says 404 Not Found" in message
    no_way_on(message, tmp_path)


@pytest.mark.parametrize("how", ["mute", "stall"])
def test_a_network_that_falls_silent(
    tmp_path: Path,
    server: LoopbackServer,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    assert download.PATIENCE_S <= 8
    monkeypatch.setattr(download, "PATIENCE_S", 0.5)
    server.cut = {LABELS: how}
    start = time.monotonic()
    message = refusal(lambda: get(tmp_path, server))
    assert time.monotonic() - start < 3
    assert "cannot fetch" in message
    no_way_on(message, tmp_path)
    assert names(tmp_path) == set()


def test_a_name_server_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    silence = threading.Event()
    monkeypatch.setattr(download, "PATIENCE_S", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: silence.wait(20))
    url = "http://flowers.invalid"
    message = refusal(lambda: flowers102.photo_set(tmp_path, url=url, progress=quiet))
    silence.set()
    assert "no answer within" in message


def test_a_place_that_cannot_be_used(
    tmp_path: Path, server: LoopbackServer, refusal: Refusal
) -> None:
    (tmp_path / "file").touch()
    message = refusal(lambda: get(tmp_path / "file", server))
    assert message.startswith(f"data.root: cannot use {tmp_path / 'file'} for Flowers-102")


def test_an_address_that_is_none(tmp_path: Path, server: LoopbackServer, refusal: Refusal) -> None:
    message = refusal(lambda: flowers102.photo_set(tmp_path, url="file:///etc", progress=quiet))
    assert "data.url=file:///etc: must start with http" in message


@pytest.fixture
def complete(tmp_path: Path, shared_folder: Callable[[str], Path]) -> Path:
    """The official label files, with stand-ins for the photos, in torchvision's folder."""
    official = shared_folder("data/flowers102-official")
    root = tmp_path / "flowers-102"
    (root / "jpg").mkdir(parents=True)
    for number in range(1, 8190):
        (root / "jpg" / f"image_{number:05d}.jpg").write_bytes(b"x")
    for name in (LABELS, SPLIT_IDS):
        (root / name).write_bytes((official / name).read_bytes())
    return root


def test_official_splits_equal_torchvisions(complete: Path) -> None:
    photos = flowers102.photo_set(complete, url="not asked for", progress=quiet)
    assert photos.protocol == "Flowers-102 official: train 1,020, val 1,020, test 6,149"
    every = [path for split in photos.splits.values() for path in split.paths]
    assert len(set(every)) == 8189
    for split in ("train", "val"):
        counts = Counter(photos.splits[split].labels)
        assert len(counts) == 102
        assert set(counts.values()) == {10}
    assert set(photos.splits["test"].labels) == set(range(102))
    for split, found in photos.splits.items():
        theirs = Flowers102(complete.parent, split)
        assert list(found.paths) == theirs._image_files
        assert list(found.labels) == theirs._labels


def test_class_names_are_torchvisions_but_for_three_spellings() -> None:
    if not hasattr(Flowers102, "classes"):
        pytest.skip("this torchvision has no list of the names yet")
    theirs = Flowers102.classes
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 102
    assert {(a, b) for a, b in zip(theirs, CLASS_NAMES, strict=True) if a != b} == {
        ("globe-flower", "globe flower"),
        ("pink-yellow dahlia?", "pink and yellow dahlia"),
        ("ball moss", "air plant"),
    }


def test_official_sums_are_torchvisions() -> None:
    stated = dict(Flowers102._file_dict.values())
    assert stated == flowers102.OFFICIAL.md5
