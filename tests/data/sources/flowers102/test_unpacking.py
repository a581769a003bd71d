"""Unpack unsafe and incomplete archives, and resume an interrupted unpacking."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowertune.data.dataset import ImageDataset
from flowertune.data.sources.flowers102 import ARCHIVE, LABELS, SPLIT_IDS

Get = Callable[..., ImageDataset]
Names = Callable[[Path], set[str]]
Refusal = Callable[[Callable[[], object]], str]


def test_an_interrupted_unpacking_resumes_without_fetching_again(
    tmp_path: Path, server: Any, get: Get, names: Names
) -> None:
    def interrupt(description: str, done: int, _total: int | None) -> None:
        if description.startswith("unpacking") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, progress=interrupt)
    assert names(tmp_path) == {ARCHIVE, LABELS, SPLIT_IDS}
    get(tmp_path)
    assert server.asked[ARCHIVE] == 1


def link(kind: bytes, name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


@pytest.mark.parametrize(
    "contents",
    [
        [{"../escaped.jpg": b"x"}],
        [{"jpg/../../escaped.jpg": b"x"}],
        [{"/tmp/flowertune-escaped.jpg": b"x"}],
        [{"..\\escaped.jpg": b"x"}],
        [{"jpg/out/escaped.jpg": b"x"}, link(tarfile.SYMTYPE, "jpg/out", "../..")],
        [{}, link(tarfile.LNKTYPE, "jpg/image_00001.jpg", "/etc/hostname")],
        [{}, link(tarfile.CHRTYPE, "jpg/image_00001.jpg", "")],
    ],
    ids=["dots", "dots inside", "absolute", "backslash", "symlink", "hard link", "device"],
)
@pytest.mark.parametrize("has_filter", [True, False])
def test_an_entry_that_leads_out_is_refused(
    tmp_path: Path,
    server: Any,
    contents: list[Any],
    has_filter: bool,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
    get: Get,
    names: Names,
) -> None:
    if not has_filter:  # Python 3.10.11 and older
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    server.pack(*contents)
    root = tmp_path / "flowers102"
    assert "not safe to unpack" in refusal(lambda: get(root))
    assert names(root) == {ARCHIVE, LABELS, SPLIT_IDS}
    assert names(tmp_path) == {"flowers102"}
    assert not Path("/tmp/flowertune-escaped.jpg").exists()


def test_an_archive_with_missing_images_is_refused(
    tmp_path: Path, server: Any, refusal: Refusal, get: Get, names: Names
) -> None:
    server.pack({f"jpg/image_{n:05d}.jpg": b"x" for n in range(1, 12)})
    assert "has only 11 of 12 images" in refusal(lambda: get(tmp_path))
    assert "jpg" not in names(tmp_path)
