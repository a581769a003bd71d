"""Each kind of finding of the dataset check."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flowertune.data.quality.check import Findings, NamedImage, check
from flowertune.data.sources import folder

Write = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def write(root: Path, photo: Callable[[int], Image.Image]) -> Write:
    """`write(name, seed, format="JPEG", size=(90, 60))`: a different image for each seed."""

    def write(name: str, seed: int, format: str = "JPEG", size: tuple[int, int] = (90, 60)) -> Path:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(seed).resize(size).save(root / name, format)
        return root / name

    return write


@pytest.fixture(autouse=True)
def sound(write: Write) -> None:
    """Two classes without any findings."""
    for place, name in enumerate(("daisy", "rose")):
        for number in range(5):
            write(f"train/{name}/{number}.jpg", 10 * place + number)
        write(f"val/{name}/0.jpg", 10 * place + 9)


def found(root: Path) -> Findings:
    return check(folder.list_images(root, seed=0), lambda *_: None)


def test_nothing_is_found_where_nothing_is_wrong(root: Path) -> None:
    findings = found(root)
    assert len(findings) == 0
    assert findings.to_dict()["findings"] == 0


def test_a_picture_is_reported_once_where_it_does_most_harm(root: Path, write: Write) -> None:
    shutil.copy(root / "train/daisy/0.jpg", root / "train/rose/copy.jpg")  # two classes
    shutil.copy(root / "train/daisy/0.jpg", root / "val/daisy/copy.jpg")  # and two splits
    write("val/rose/small.webp", 11, "WEBP", size=(60, 50))  # two splits
    write("train/daisy/small.png", 2, "PNG", size=(60, 50))  # twice in train
    findings = found(root)
    assert len(findings) == 3
    (labels,), (leak,), (twice,) = findings.two_classes, findings.two_splits, findings.repeated
    assert labels.identical
    assert labels.photos == (
        NamedImage("train", "train/daisy/0.jpg", "daisy"),
        NamedImage("train", "train/rose/copy.jpg", "rose"),
        NamedImage("val", "val/daisy/copy.jpg", "daisy"),
    )
    assert not leak.identical
    assert [photo.name for photo in leak.photos] == ["train/rose/1.jpg", "val/rose/small.webp"]
    assert not twice.identical
    assert [photo.name for photo in twice.photos] == ["train/daisy/2.jpg", "train/daisy/small.png"]


def test_unreadable_files_are_reported_and_not_counted(root: Path) -> None:
    whole = (root / "train/rose/0.jpg").read_bytes()
    (root / "train/rose/0.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/rose/notes.jpg").write_text("no photo")
    (root / "val/rose/0.jpg").write_bytes(b"")
    findings = found(root)
    assert [(photo.name, reason) for photo, reason in findings.unreadable] == [
        ("train/rose/0.jpg", "truncated"),
        ("train/rose/notes.jpg", "not an image"),
        ("val/rose/0.jpg", "empty file"),
    ]
    assert findings.few == (("train", "rose", 4), ("val", "rose", 0))
    assert len(findings) == 5


def test_folders_without_any_readable_image_are_checked(root: Path) -> None:
    for file in root.rglob("*.jpg"):
        file.write_bytes(b"")
    assert len(found(root).unreadable) == 12


def test_classes_of_very_different_sizes(root: Path, write: Write) -> None:
    for number in range(44):
        write(f"train/daisy/more{number}.jpg", 100 + number)
    assert found(root).uneven == ()
    write("train/daisy/last.jpg", 99)
    findings = found(root)
    assert findings.uneven == (("rose", 5), ("daisy", 50))
    assert len(findings) == 1


def test_an_ending_that_names_another_format(root: Path, write: Write) -> None:
    write("train/daisy/a.PNG", 50, "JPEG")
    write("train/daisy/b.jpg", 51, "WEBP")
    for seed, (ending, true) in enumerate(
        [("jpeg", "JPEG"), ("JPG", "JPEG"), ("tif", "TIFF"), ("png", "PNG"), ("gif", "GIF")]
    ):
        write(f"train/daisy/{true}.{ending}", 60 + seed, true)
    write("train/daisy/no_ending", 70, "JPEG")
    write("train/daisy/IMG.1234", 71, "JPEG")
    several = Image.new("RGB", (20, 30), "teal")
    Image.open(root / "train/rose/0.jpg").save(
        root / "train/daisy/phone.jpg", "MPO", save_all=True, append_images=[several]
    )
    (root / "train/rose/0.jpg").unlink()
    write("train/rose/new.jpg", 80)
    assert [(photo.name, name) for photo, name in found(root).endings] == [
        ("train/daisy/a.PNG", "JPEG"),
        ("train/daisy/b.jpg", "WEBP"),
    ]
