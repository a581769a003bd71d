"""Small versions of the official files, served on the loopback interface."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from flowertune.data.dataset import ImageDataset, Progress
from flowertune.data.sources import flowers102
from flowertune.data.sources.flowers102 import ARCHIVE, LABELS, SPLIT_IDS

PHOTOS = 12


class LoopbackServer:
    """Serves `files`; `cut` names those whose connection ends or stalls halfway."""

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

    def pack(self, files: dict[str, bytes], *special: tarfile.TarInfo) -> None:
        """Make the archive of these contents, and before them of entries that are no files."""
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
        self.files[ARCHIVE] = buffer.getvalue()

    def md5(self) -> dict[str, str]:
        """The sums of the files that are served now."""
        return {name: hashlib.md5(body).hexdigest() for name, body in self.files.items()}

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")


def mat(**arrays: list[int]) -> bytes:
    """Like the official files: rows of doubles and bytes, numbered from 1."""
    buffer = io.BytesIO()
    savemat(buffer, {name: np.array([values], dtype=np.uint8) for name, values in arrays.items()})
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """12 images: 4 per split, of the classes 1, 2, 3 and 102."""
    serving = LoopbackServer()
    serving.pack({f"jpg/image_{n:05d}.jpg": b"photo %d" % n for n in range(1, PHOTOS + 1)})
    serving.files |= {
        LABELS: mat(labels=[3, 1, 2, 102, 1, 2, 3, 102, 1, 2, 3, 102]),
        SPLIT_IDS: mat(trnid=[2, 3, 1, 4], valid=[5, 6, 7, 8], tstid=[9, 10, 11, 12]),
    }
    yield serving
    serving.close()


@pytest.fixture
def get(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ImageDataset]:
    """`get(root, url=..., md5=..., progress=...)`: list the served files, with these changes."""

    monkeypatch.setattr(flowers102, "N_IMAGES", PHOTOS)

    def get(
        root: Path,
        url: str = server.url,
        md5: dict[str, str] | None = None,
        progress: Progress = lambda *_: None,
    ) -> ImageDataset:
        monkeypatch.setattr(flowers102, "MD5", md5 or server.md5())
        return flowers102.list_images(root, url=url, progress=progress)

    return get


@pytest.fixture(scope="session")
def names() -> Callable[[Path], set[str]]:
    """`names(root)`: names in the folder, without the lock and meta.json."""
    return lambda root: {path.name for path in root.iterdir()} - {".lock", "meta.json"}
