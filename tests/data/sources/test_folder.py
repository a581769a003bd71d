import os
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flowertune.data.dataset import ImageDataset
from flowertune.data.sources import folder
from flowertune.errors import UsageError


def make(root: Path, counts: Mapping[str, int]) -> Path:
    """Make class folders with empty files; the source reads no image."""
    for place, count in counts.items():
        (root / place).mkdir(parents=True)
        for number in range(count):
            (root / place / f"{number:03d}.jpg").touch()
    return root


def listed(photos: ImageDataset, split: str) -> list[tuple[str, str]]:
    """Return (relative path, class name) of a split's images."""
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


def test_a_test_folder_is_used_if_there_is_one(tmp_path: Path) -> None:
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


def test_the_split_depends_only_on_the_seed(
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


def test_only_files_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    root = make(
        tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, ".git": 1, "__MACOSX": 1}
    )
    for dropped in (".DS_Store", "._000.jpg", "Thumbs.db", "desktop.ini", "Desktop.ini"):
        (root / "train" / "a" / dropped).touch()
    (root / "README.txt").touch()
    for other in ("notes.txt", "IMG_1.MOV", "IMG_2.mov", "unknown.ending", "without"):
        (root / "train" / "a" / other).touch()
    (root / "train" / "a" / "empty").mkdir()
    photos = folder.list_images(root, seed=0)
    assert [path for path, name in listed(photos, "train") if name == "a"] == [
        "train/a/000.jpg",
        "train/a/unknown.ending",
        "train/a/without",
    ]
    assert photos.notes == ("left out files that are not images: .mov 2, .txt 1",)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    photos = folder.list_images(make(tmp_path, {"train": 3, "tram": 3}), seed=0)
    assert photos.class_names == ("train", "tram")


REFUSED = {
    "empty": ({}, "has no class folders; put the images into one folder per class"),
    "one class": ({"rose": 9}, "only one class, rose/"),
    "one photo": ({"iris": 9, "rose": 1}, r"rose \(1\); every class needs at least 3"),
    "two photos": ({"iris": 2, "rose": 9}, r"iris \(2\); every class needs at least 3"),
    "one class with images": ({"iris": 9, "rose": 0}, "only one class, iris/"),
    "too few to cut val": ({"train/a": 2, "train/b": 1}, r"b \(1\);.* data.min_images=2"),
    "no train": ({"val/a": 2, "val/b": 2}, "has val/ but no train/"),
    "two vals": ({"train/a": 2, "val/a": 2, "valid/a": 2}, "both val/ and valid/"),
    "no class of train in val": (
        {"train/a": 2, "train/b": 2, "val/c": 2, "val/d": 2},
        "val has none of the classes of train \\(a/, b/\\), but c/, d/",
    ),
    "a split of an unknown name": (
        {"learn/a": 5, "learn/b": 5, "test/a": 2, "test/b": 2},
        "learn/ and test/ have the same class folders; rename learn/ to train/",
    ),
    "no images in the class folders": ({"val/a": 0, "val/b": 0}, "no class folders with images"),
    "mixed layouts": (
        {"train/a": 2, "train/b": 2, "val/a": 2, "val/b": 2, "rose": 4},
        "train/, val/ with class folders, but also rose/",
    ),
    "no class folders in train": ({"train": 5, "val": 5}, "train: has no class folders"),
    "every class with its count": (
        {f"c{n}": 1 + n % 2 for n in range(12)},
        ", ".join(rf"c{n} \({1 + n % 2}\)" for n in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_place_and_what_to_do(tmp_path: Path, case: str) -> None:
    counts, expected = REFUSED[case]
    message = refusal(make(tmp_path, counts))
    assert str(tmp_path) in message
    assert re.search(expected, message), message


def test_refused_when_there_is_no_such_folder(tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} does not exist" in refusal(tmp_path / "nowhere")


def test_refused_when_the_root_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").touch()
    assert "photos.zip is a file" in refusal(tmp_path / "photos.zip")


def test_refused_when_a_class_links_to_nothing(tmp_path: Path) -> None:
    root = make(tmp_path, {"iris": 3, "rose": 3})
    (root / "tulip").symlink_to(tmp_path / "unmounted")
    assert "broken link tulip" in refusal(root)


def test_links_in_a_circle_are_refused_as_folders_and_listed_as_photos(tmp_path: Path) -> None:
    root = make(tmp_path, {"iris": 3, "rose": 3})
    (root / "rose" / "round.jpg").symlink_to("round.jpg")
    photos = folder.list_images(root, seed=0)
    assert sum(map(len, photos.splits.values())) == 7
    (root / "tulip").symlink_to("tulip")
    assert "broken link tulip" in refusal(root)
    (root / "tulip").unlink()
    (root / "tulip").symlink_to(root, target_is_directory=True)
    photos = folder.list_images(root, seed=0)
    assert photos.class_names == ("iris", "rose")  # and not all images once more as tulip
    assert photos.notes[0] == "left out tulip/: no images"


@pytest.mark.skipif(os.name != "posix", reason="Windows forbids such names")
def test_no_name_breaks_a_line_or_reaches_the_terminal(tmp_path: Path) -> None:
    root = make(tmp_path / "my\nphotos", {"ro\nse": 9, "i\x1b[31mris\x07": 1, "a\u202eb": 9})
    message = refusal(root)
    assert message.isprintable()
    assert r"my\nphotos: too few images to split in i\x1b[31mris\x07 (1)" in message
    for number in range(1, 9):
        (root / "i\x1b[31mris\x07" / f"{number:03d}.jpg").touch()
    assert folder.list_images(root, seed=0).class_names == (
        "a\u202eb",
        "i\x1b[31mris\x07",
        "ro\nse",
    )


SPLIT_NAMES = [
    ("training", "validation", "evaluation"),
    ("Training", "dev_set", "Testing"),
    ("train_images", "valid", "eval"),
    ("seg_train", "seg_val", "seg_test"),
    ("TR", "val-set", "tst"),
    ("TrainImages", "ValidationData", "testset"),
    ("trainval", "dev", "test1"),
    ("TRAIN", "VAL_SET", "Test_Set"),
]


@pytest.mark.parametrize("names", SPLIT_NAMES)
def test_usual_names_of_split_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    make(tmp_path, {f"{split}/{name}": 2 for split in names for name in "ab"})
    photos = folder.list_images(tmp_path, seed=0)
    assert photos.protocol == "folder train/val/test: train 4, val 4, test 4"
    for split, name in zip(("train", "val", "test"), names, strict=True):
        assert listed(photos, split)[0] == (f"{name}/a/000.jpg", "a")


def test_val_is_cut_from_train_and_test_stays(tmp_path: Path) -> None:
    root = make(tmp_path, {"train/a": 10, "train/b": 5, "test/a": 3, "test/b": 2})
    photos = folder.list_images(root, seed=4)
    assert photos.protocol == (
        "folder train/test, val cut from train by data.seed=4: train 12, val 3, test 5"
    )
    assert {path for path, _ in listed(photos, "test")} == {
        path.relative_to(root).as_posix() for path in root.glob("test/*/*")
    }
    drawn = listed(photos, "train") + listed(photos, "val")
    assert len(set(drawn)) == 15
    assert [name for _, name in listed(photos, "val")] == ["a", "a", "b"]


def test_classes_may_be_missing_or_spelled_otherwise_in_val_and_test(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        {"train/Rosé": 3, "train/iris": 2, "train/oak tree": 2, "val/rose\u0301": 1,
         "val/iris": 0, "test/Iris": 2, "test/oak_tree": 1, "test/elm": 4},
    )  # fmt: skip
    photos = folder.list_images(root, seed=0)
    assert photos.class_names == ("Rosé", "iris", "oak tree")
    assert photos.protocol == "folder train/val/test: train 7, val 1, test 3"
    assert [name for _, name in listed(photos, "test")] == ["iris", "iris", "oak tree"]
    assert photos.notes == (
        "no val images of iris/, oak tree/: not in the val metrics",
        "left out of test: elm (4), which train lacks or leaves out",
        "no test images of Rosé/: not in the test metrics",
    )


def test_images_at_any_depth_and_outer_folders(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        {"v1.0/images/ash/plant1/2020": 2, "v1.0/images/ash/plant2": 1, "v1.0/images/elm": 3,
         "v1.0/images/$RECYCLE.BIN/S-1-5": 3, "v1.0/images/lost+found": 1, "@eaDir/ash": 1,
         "v1.0/images/ash/@eaDir/x.jpg": 1, "v1.0/images/#recycle/ash": 4},
    )  # fmt: skip
    (root / "v1.0/images/runs/lora").mkdir(parents=True)
    for file in ("status.json", "config.yaml"):
        (root / "v1.0/images/runs/lora" / file).touch()
    photos = folder.list_images(root, seed=0)
    assert photos.class_names == ("ash", "elm")
    assert sum(map(len, photos.splits.values())) == 6
    assert f"reading v1.0/images/, the only folder with images in {root}" in photos.notes
    assert any("folders below them (plant1/, plant2/) are not" in n for n in photos.notes)
    (path,) = [path for path, _ in listed(photos, "val") if "ash" in path]
    assert path.startswith("v1.0/images/ash/plant")


def test_a_split_folder_within_a_folder_of_the_same_name(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        {"seg_train/seg_train/sea": 4, "seg_train/seg_train/ice": 4, "seg_test/seg_test/sea": 2,
         "seg_test/seg_test/ice": 2, "seg_pred/seg_pred": 9},
    )  # fmt: skip
    photos = folder.list_images(root, seed=0)
    assert (photos.class_names, len(photos.splits["test"])) == (("ice", "sea"), 4)
    assert "left out seg_pred/: not a split" in photos.notes


def test_a_class_may_hold_files_that_are_named_like_those_of_a_run(tmp_path: Path) -> None:
    root = make(tmp_path, {"train/iris": 4, "train/rose/plant1": 4, "val/iris": 1, "val/rose": 1})
    for file in ("train/iris/meta.json", "train/rose/plant1/status.json"):
        (root / file).touch()
    photos = folder.list_images(root, seed=0)
    assert photos.protocol == "folder train/val: train 8, val 2"


def test_a_run_or_cache_below_a_class_is_none_of_its_images(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        {"iris": 3, "rose": 3, "rose/runs/a/figures": 2, "cache/pixels/0f": 4,
         "runs/sweeps/s/jobs": 0},
    )  # fmt: skip
    (root / "runs/b").mkdir()
    for file in ("rose/runs/a", "runs/b"):
        (root / file / "status.json").touch()
        (root / file / "config.yaml").touch()
    for file in ("cache/pixels/0f/meta.json", "cache/pixels/0f.lock", "runs/sweeps/s/sweep.csv"):
        (root / file).touch()
    photos = folder.list_images(root, seed=0)
    assert photos.class_names == ("iris", "rose")
    assert sum(map(len, photos.splits.values())) == 6
    assert photos.notes == ()


def test_folders_of_systems_and_shares_are_no_classes_but_similar_names_are(tmp_path: Path) -> None:
    system = (
        "$Recycle.Bin/S-1-5", "$WinREAgent", "System Volume Information", "found.000", "@eaDir",
        "@Recently-Snapshot", "#recycle", "~snapshot/daily", "Network Trash Folder", "lost+found",
    )  # fmt: skip
    own = ("#earth", "#snapshots", "@eagle", "recycling")
    photos = folder.list_images(make(tmp_path, dict.fromkeys((*system, *own), 3)), seed=0)
    assert photos.class_names == own


def test_classes_may_share_a_word_with_splits(tmp_path: Path) -> None:
    names = ("bus", "freight train", "steam train", "test_a", "test_b")
    assert folder.list_images(make(tmp_path, dict.fromkeys(names, 3)), seed=0).class_names == names


def test_a_split_folder_without_images_is_no_second_one(tmp_path: Path) -> None:
    root = make(tmp_path, {"train/a": 4, "train/b": 4, "train_labels": 0})
    (root / "train_labels" / "000.txt").touch()
    photos = folder.list_images(root, seed=0)
    assert photos.notes == ("left out train_labels/: not a split",)


def test_the_folder_of_images_is_found_beside_one_of_annotations(tmp_path: Path) -> None:
    root = make(tmp_path / "x", {"CUB/images/001.A": 3, "CUB/images/002.B": 3, "CUB/parts": 0})
    (root / "CUB/parts/parts.txt").touch()
    assert folder.list_images(root, seed=0).class_names == ("001.A", "002.B")


@pytest.mark.parametrize("outer", ["set", "flowers-test.v1"])
def test_a_single_train_folder_stays_one_inside_an_outer_folder(tmp_path: Path, outer: str) -> None:
    root = make(tmp_path, {f"{outer}/train/a": 5, f"{outer}/train/b": 5})
    photos = folder.list_images(root, seed=0)
    assert photos.protocol == "folder train, val cut from train by data.seed=0: train 8, val 2"


def test_a_split_with_one_class_of_plants_is_not_mistaken_for_an_outer_folder(
    tmp_path: Path,
) -> None:
    root = make(tmp_path, {"train/a": 4, "train/b": 4, "val/a/plant1": 2, "val/a/plant2": 2})
    photos = folder.list_images(root, seed=0)
    assert {name for _, name in listed(photos, "val")} == {"a"}


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ({"val": 0}, "left out val/: no images"),
        ({"val/a": 0, "val/b": 0}, "left out val/: no images"),
        ({"test/test": 4}, "left out test/: its only folder test/ is not a class of train"),
        ({"test/unknown": 4}, "left out test/: its only folder unknown/ is not a class of train"),
    ],
)
def test_a_split_without_images_of_the_classes_is_left_out(
    tmp_path: Path, counts: dict[str, int], note: str
) -> None:
    photos = folder.list_images(make(tmp_path, {"train/a": 5, "train/b": 5, **counts}), seed=0)
    assert photos.protocol == "folder train, val cut from train by data.seed=0: train 8, val 2"
    assert photos.notes[0].startswith(note)


def test_images_outside_class_folders_are_counted(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": 3, "b": 3})
    for name in ("x.JPG", "y.png", "notes.txt", "LICENSE"):
        (root / name).touch()
    photos = folder.list_images(root, seed=0)
    assert photos.notes == (f"left out images in no class folder, in {root}: 2",)


def test_a_test_folder_without_labels_is_left_for_predict(tmp_path: Path) -> None:
    root = make(tmp_path, {"train/a": 4, "train/b": 4, "test": 5})
    photos = folder.list_images(root, seed=0)
    assert tuple(photos.splits) == ("train", "val")
    (note,) = photos.notes
    assert note.startswith("left out test/: its images have no labels")
    assert note.endswith("flowertune predict")


def test_small_classes_can_be_left_out(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": 9, "b": 9, "c": 4, "d": 1})
    photos = folder.list_images(root, seed=0, min_images=5)
    assert photos.class_names == ("a", "b")
    assert photos.protocol.startswith(
        "folder split 60/20/20 by data.seed=0, without 2 classes (data.min_images=5): train"
    )
    assert photos.notes == ("left out by data.min_images=5: c (4), d (1)",)


def test_the_unicode_form_of_names_does_not_matter(tmp_path: Path) -> None:
    found = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        for name in ("Blüte", "zebra"):
            place = root / unicodedata.normalize(form, name)
            place.mkdir(parents=True)
            for letter in "äbéz" * 5:
                number = len(list(place.iterdir()))
                (place / unicodedata.normalize(form, f"{letter}{number}.jpg")).touch()
        photos = folder.list_images(root, seed=0)
        pairs = [pair for split in photos.splits for pair in listed(photos, split)]
        found.append([(unicodedata.normalize("NFC", path), name) for path, name in pairs])
    assert found[0] == found[1]


NAME_FILES = {
    "names.json": '{"1": "fire lily", "2": "pink primrose", "10": "canna"}',
    "list.json": '["fire lily", "canna", "pink primrose"]',
    "names.txt": "fire lily\ncanna\n\npink primrose\n",
    "pairs.txt": "1 fire lily\n2 pink primrose\n10 canna\n",
    "names.csv": "class;name\n001;fire lily\n2;pink primrose\n10;canna\n",
    "names.tsv": "1\tfire lily\n10\tcanna\n2\tpink primrose\n",
}


@pytest.mark.parametrize("file", NAME_FILES)
def test_names_for_numbered_classes(tmp_path: Path, file: str) -> None:
    root = make(tmp_path / "set", {"1": 3, "2": 3, "10": 3})
    (tmp_path / file).write_text(NAME_FILES[file], encoding="utf-8-sig")
    photos = folder.list_images(root, seed=0, names=tmp_path / file)
    assert photos.class_names == ("fire lily", "canna", "pink primrose")
    assert listed(photos, "train")[0][0].startswith("1/")
    shown = "1 = fire lily, 10 = canna, 2 = pink primrose"  # so that a wrong order is seen
    assert photos.notes == (f"names from {tmp_path / file}: {shown}",)


def test_a_list_of_names_counts_the_classes_that_are_left_out(tmp_path: Path) -> None:
    root = make(tmp_path / "set", {"1": 3, "10": 1, "2": 3})
    (tmp_path / "names.txt").write_text("fire lily\ncanna\npink primrose\n")
    photos = folder.list_images(root, seed=0, min_images=3, names=tmp_path / "names.txt")
    assert photos.class_names == ("fire lily", "pink primrose")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.txt", "one\ntwo\n", "2 names for 3 classes"),
        ("a.json", "{", "cannot read"),
        ("a.json", "[1, 2, 3]", "expected"),
        ("a.csv", "1,x\n2\n", "row 2: expected a class and its name"),
        ("a.csv", "rose,x\n", "names none of the classes (1, 10, 2), but rose"),
        ("a.csv", "1,x\n2,x\n", "gives several classes the name x"),
        ("missing.txt", None, "does not exist"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    tmp_path: Path, file: str, content: str | None, expected: str
) -> None:
    root = make(tmp_path / "set", {"1": 3, "2": 3, "10": 3})
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(UsageError) as caught:
        folder.list_images(root, seed=0, names=tmp_path / file)
    assert expected in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take only Unicode names")
def test_refused_when_a_name_is_not_text(tmp_path: Path) -> None:
    root = make(tmp_path, {"iris": 3, "rose": 3})
    open(os.fsencode(root) + b"/rose/\xe9.jpg", "w").close()
    message = refusal(root)
    assert "not valid UTF-8" in message
    message.encode()


def test_a_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path / "photos", {"iris": 3, "rose": 3})
    assert folder.list_images(Path("~/photos"), seed=0).root == tmp_path / "photos"


def test_real_photos(shared_folder: Callable[[str], Path]) -> None:
    photos = folder.list_images(shared_folder("data/flowers17"), seed=0)
    assert photos.protocol == "folder train/val: train 680, val 340"
    assert len(photos.class_names) == 17
    assert all(photos.splits["train"].labels.count(label) == 40 for label in range(17))
