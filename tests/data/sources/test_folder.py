import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flowertune.data.dataset import ImageDataset
from flowertune.data.sources import folder
from flowertune.errors import UsageError


def make(root: Path, counts: Mapping[str, int]) -> Path:
    """Class folders with empty files: a source reads no photo."""
    for place, count in counts.items():
        (root / place).mkdir(parents=True)
        for number in range(count):
            (root / place / f"{number:03d}.jpg").touch()
    return root


def listed(photos: ImageDataset, split: str) -> list[tuple[str, str]]:
    """(path below the root, class name) of a split."""
    part = photos.splits[split]
    return [
        (path.relative_to(photos.root).as_posix(), photos.class_names[label])
        for path, label in zip(part.paths, part.labels, strict=True)
    ]


def refusal(root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        folder.list_images(root, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_train_and_val_folders(tmp_path: Path, val: str) -> None:
    root = make(
        tmp_path / "own", {"train/rose": 3, "train/iris": 2, f"{val}/iris": 1, f"{val}/rose": 1}
    )
    photos = folder.list_images(root, seed=0)
    assert (photos.root, photos.class_names) == (root, ("iris", "rose"))
    assert photos.descriptions is None
    assert photos.protocol == "folder train/val: train 5, val 2"
    assert listed(photos, "val") == [
        (f"{val}/iris/000.jpg", "iris"),
        (f"{val}/rose/000.jpg", "rose"),
    ]
    assert listed(photos, "train") == [
        ("train/iris/000.jpg", "iris"),
        ("train/iris/001.jpg", "iris"),
        ("train/rose/000.jpg", "rose"),
        ("train/rose/001.jpg", "rose"),
        ("train/rose/002.jpg", "rose"),
    ]


def test_test_folder_is_taken_where_there_is_one(tmp_path: Path) -> None:
    splits = ("train", "val", "test")
    photos = folder.list_images(
        make(tmp_path, {f"{split}/{name}": 2 for split in splits for name in "ab"}), seed=0
    )
    assert tuple(photos.splits) == splits
    assert photos.protocol == "folder train/val/test: train 4, val 4, test 4"


def test_one_level_is_split_60_20_20_in_every_class(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": 3, "b": 4, "c": 5, "d": 8, "e": 100})
    photos = folder.list_images(root, seed=7)
    sizes = {
        name: [sum(found == name for _, found in listed(photos, split)) for split in photos.splits]
        for name in photos.class_names
    }
    assert sizes == {
        "a": [1, 1, 1],
        "b": [2, 1, 1],
        "c": [3, 1, 1],
        "d": [4, 2, 2],
        "e": [60, 20, 20],
    }
    assert photos.protocol == "folder split 60/20/20 by data.seed=7: train 70, val 25, test 25"
    every = [pair for split in photos.splits for pair in listed(photos, split)]
    on_disk = {(p.relative_to(root).as_posix(), p.parent.name) for p in root.glob("*/*.jpg")}
    assert sorted(every) == sorted(on_disk)


def test_the_split_hangs_on_the_seed_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "here", {"iris": 40, "rose": 40})
    photos = folder.list_images(root, seed=0)
    other_seed = folder.list_images(root, seed=1)
    assert listed(other_seed, "val") != listed(photos, "val")
    val = photos.splits["val"].paths
    iris, rose = ({path.name for path in val if path.parent.name == c} for c in ("iris", "rose"))
    assert iris != rose  # classes with the same file names are drawn apart

    moved = make(tmp_path / "there", {"aster": 10, "iris": 40, "rose": 40})
    with_aster = folder.list_images(moved, seed=0)
    for split in photos.splits:
        without = [pair for pair in listed(with_aster, split) if pair[1] != "aster"]
        assert without == listed(photos, split)

    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(real(path), reverse=True))
    assert folder.list_images(root, seed=0) == photos


def test_links_are_followed(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", {"iris": 3, "single": 1})
    root = make(tmp_path / "photos", {"rose": 2})
    (root / "iris").symlink_to(elsewhere / "iris")
    (root / "rose" / "linked.jpg").symlink_to(elsewhere / "single" / "000.jpg")
    photos = folder.list_images(root, seed=0)
    assert photos.class_names == ("iris", "rose")
    assert sum(map(len, photos.splits.values())) == 6


def test_what_systems_drop_is_ignored_and_everything_else_is_listed(tmp_path: Path) -> None:
    root = make(
        tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, ".git": 1, "__MACOSX": 1}
    )
    for dropped in (".DS_Store", "._000.jpg", "Thumbs.db", "desktop.ini", "Desktop.ini"):
        (root / "train" / "a" / dropped).touch()
    (root / "README.txt").touch()
    (root / "train" / "a" / "notes.txt").touch()
    (root / "train" / "a" / "more").mkdir()
    photos = folder.list_images(root, seed=0)
    assert [path for path, name in listed(photos, "train") if name == "a"] == [
        "train/a/000.jpg",
        "train/a/more",
        "train/a/notes.txt",
    ]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    photos = folder.list_images(make(tmp_path, {"train": 3, "tram": 3}), seed=0)
    assert photos.class_names == ("train", "tram")


REFUSED = {
    "empty": ({}, "holds no class folders: put the photos into one folder for each class"),
    "one class": ({"rose": 9}, "only one class, rose/"),
    "one photo": ({"iris": 9, "rose": 1}, r"rose \(1\); every class needs at least 3"),
    "two photos": ({"iris": 2, "rose": 9}, r"iris \(2\); every class needs at least 3"),
    "empty class": ({"iris": 9, "rose": 0}, "no photos in rose/: add photos"),
    "empty class in val": (
        {"train/a": 2, "train/b": 2, "val/a": 2, "val/b": 0},
        "val: no photos in b/",
    ),
    "no val": ({"train/a": 2, "train/b": 2}, "train/ and no val/ beside it: .*data.root=.*train"),
    "no train": ({"val/a": 2, "val/b": 2}, "holds val/ and no train/"),
    "two vals": ({"train/a": 2, "val/a": 2, "valid/a": 2}, "both val/ and valid/"),
    "class missing in val": (
        {"train/a": 2, "train/b": 2, "train/c": 2, "val/a": 2, "val/b": 2},
        "val lacks c/",
    ),
    "class missing in test": (
        {f"{s}/{c}": 2 for s in ("train", "val", "test") for c in "abc" if s + c != "testa"},
        "test lacks a/",
    ),
    "class unknown to train": (
        {"train/a": 2, "train/b": 2, "val/a": 2, "val/b": 2, "val/c": 2},
        "val holds c/, unknown to train/",
    ),
    "mixed layouts": (
        {"train/a": 2, "train/b": 2, "val/a": 2, "val/b": 2, "rose": 4},
        "train/, val/ with class folders and also rose/",
    ),
    "no class folders in train": ({"train": 5, "val": 5}, "train holds no class folders"),
    "one level too deep": ({"iris/alba/x": 3, "rose/y": 3}, "iris/, rose/ .*no files: photos must"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_place_and_what_to_do(tmp_path: Path, case: str) -> None:
    counts, expected = REFUSED[case]
    message = refusal(make(tmp_path, counts))
    assert str(tmp_path) in message
    assert re.search(expected, message), message


def test_refused_when_there_is_no_such_folder(tmp_path: Path) -> None:
    assert f"no folder {tmp_path / 'nowhere'}" in refusal(tmp_path / "nowhere")


def test_refused_when_the_root_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").touch()
    assert "photos.zip is a file" in refusal(tmp_path / "photos.zip")


def test_refused_when_a_class_links_to_nothing(tmp_path: Path) -> None:
    root = make(tmp_path, {"iris": 3, "rose": 3})
    (root / "tulip").symlink_to(tmp_path / "unmounted")
    assert "tulip links to nothing" in refusal(root)


def test_links_in_a_circle_are_refused_as_folders_and_listed_as_photos(tmp_path: Path) -> None:
    root = make(tmp_path, {"iris": 3, "rose": 3})
    (root / "rose" / "round.jpg").symlink_to("round.jpg")
    photos = folder.list_images(root, seed=0)
    assert sum(map(len, photos.splits.values())) == 7
    (root / "tulip").symlink_to("tulip")
    assert "tulip links to nothing" in refusal(root)
    (root / "tulip").unlink()
    (root / "tulip").symlink_to(root, target_is_directory=True)
    assert "tulip/ holds folders and no files" in refusal(root)


@pytest.mark.skipif(os.name != "posix", reason="Windows forbids such names")
def test_no_name_breaks_a_line_or_reaches_the_terminal(tmp_path: Path) -> None:
    root = make(tmp_path / "my\nphotos", {"ro\nse": 9, "i\x1b[31mris\x07": 1, "a\u202eb": 9})
    message = refusal(root)
    assert message.isprintable()
    assert r"my\nphotos: too few photos to split: i\x1b[31mris\x07 (1)" in message
    for number in range(1, 9):
        (root / "i\x1b[31mris\x07" / f"{number:03d}.jpg").touch()
    assert folder.list_images(root, seed=0).class_names == (
        "a\u202eb",
        "i\x1b[31mris\x07",
        "ro\nse",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take only Unicode names")
def test_refused_when_a_name_is_not_text(tmp_path: Path) -> None:
    root = make(tmp_path, {"iris": 3, "rose": 3})
    open(os.fsencode(root) + b"/rose/\xe9.jpg", "w").close()
    message = refusal(root)
    assert "not valid UTF-8" in message
    message.encode()


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path / "photos", {"iris": 3, "rose": 3})
    assert folder.list_images(Path("~/photos"), seed=0).root == tmp_path / "photos"


def test_real_photos(shared_folder: Callable[[str], Path]) -> None:
    photos = folder.list_images(shared_folder("data/flowers17"), seed=0)
    assert photos.protocol == "folder train/val: train 680, val 340"
    assert len(photos.class_names) == 17
    assert all(photos.splits["train"].labels.count(label) == 40 for label in range(17))
