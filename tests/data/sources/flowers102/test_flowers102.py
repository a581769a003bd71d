"""The source against the official files, in miniature and themselves, and against torchvision."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import Flowers102

from flowertune.data.dataset import ImageDataset
from flowertune.data.sources import flowers102
from flowertune.data.sources.flowers102 import ARCHIVE, CLASS_NAMES, LABELS, SPLIT_IDS

Get = Callable[..., ImageDataset]
Names = Callable[[Path], set[str]]
Refusal = Callable[[Callable[[], object]], str]


def test_fetched_unpacked_and_listed(tmp_path: Path, server: Any, get: Get, names: Names) -> None:
    root = tmp_path / "new" / "flowers102"
    seen: list[tuple[str, int, int | None]] = []
    photos = get(root, progress=lambda *step: seen.append(step))

    assert photos.protocol == "Flowers-102 official: train 4, val 4, test 4"
    assert (photos.root, photos.class_names) == (root, CLASS_NAMES)
    train = photos.splits["train"]
    assert [path.name for path in train.paths] == [f"image_{n:05d}.jpg" for n in (2, 3, 1, 4)]
    assert train.labels == (0, 1, 2, 101)
    assert train.paths[0].read_bytes() == b"photo 2"
    assert names(root) == {ARCHIVE, LABELS, SPLIT_IDS, "jpg"}
    size = len(server.files[ARCHIVE])
    assert (f"fetching {ARCHIVE}", size, size) in seen
    assert seen[-1] == (f"unpacking {ARCHIVE}", 12, 12)

    again = get(root)
    assert again == photos
    assert set(server.asked.values()) == {1}


def test_files_put_there_by_hand_are_used(tmp_path: Path, server: Any, get: Get) -> None:
    for name, body in server.files.items():
        (tmp_path / name).write_bytes(body)
    photos = get(tmp_path, url="not asked for")
    assert len(photos.splits["train"]) == 4
    (tmp_path / ARCHIVE).unlink()  # the unpacked photos are enough from now on
    assert get(tmp_path) == photos
    assert not server.asked


@pytest.mark.parametrize("name", [LABELS, SPLIT_IDS, ARCHIVE])
def test_a_wrong_file_put_there_is_named_and_kept(
    tmp_path: Path, name: str, refusal: Refusal, get: Get
) -> None:
    (tmp_path / name).write_bytes(b"half of it")
    assert f"{tmp_path / name} is not the official file" in refusal(lambda: get(tmp_path))
    assert (tmp_path / name).read_bytes() == b"half of it"


def test_a_folder_that_somebody_unpacked_in_part_is_named(
    tmp_path: Path, refusal: Refusal, get: Get
) -> None:
    get(tmp_path)
    (tmp_path / "jpg" / "image_00003.jpg").unlink()
    (tmp_path / "jpg" / "image_00004.jpg").write_bytes(b"")
    (tmp_path / "jpg" / "other.jpg").write_bytes(b"x")
    message = refusal(lambda: get(tmp_path))
    assert f"{tmp_path / 'jpg'} holds 10 of 12 photos: remove the folder" in message


def test_a_place_that_cannot_be_used(tmp_path: Path, refusal: Refusal, get: Get) -> None:
    (tmp_path / "file").touch()
    message = refusal(lambda: get(tmp_path / "file"))
    assert message.startswith(f"data.root: cannot use {tmp_path / 'file'} for Flowers-102")


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
    photos = flowers102.list_images(complete, url="not asked for", progress=lambda *_: None)
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
    assert stated == flowers102.MD5
