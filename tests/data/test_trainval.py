import re
from pathlib import Path

import pytest

from flowertune.data.dataset import ImageDataset, Split
from flowertune.data.splits import k_shot, trainval
from flowertune.errors import UsageError


def split(name: str, labels: tuple[int, ...]) -> Split:
    return Split(tuple(Path(f"/p/{name}/{n}.jpg") for n in range(len(labels))), labels)


SPLITS = {
    "train": split("train", (0, 1, 0, 1)),
    "val": split("val", (1, 0)),
    "test": split("test", (0, 0, 1)),
}
WHOLE = ImageDataset(Path("/p"), "made: 4, 2, 3", ("daisy", "iris"), None, SPLITS)


def test_train_and_val_become_one_training_set_and_test_stays() -> None:
    joined = trainval(WHOLE)
    assert joined.splits.keys() == {"train", "test"}
    train = joined.splits["train"]
    pairs = {
        (path, label)
        for name in ("train", "val")
        for path, label in zip(SPLITS[name].paths, SPLITS[name].labels, strict=True)
    }
    assert set(zip(train.paths, train.labels, strict=True)) == pairs
    assert len(train) == 6
    assert joined.splits["test"] == SPLITS["test"]
    assert joined.protocol.startswith("made: 4, 2, 3; trainval: ")
    assert "training set of 6" in joined.protocol


def test_shots_are_drawn_from_both() -> None:
    seen: set[Path] = set()
    for seed in range(40):
        train = k_shot(trainval(WHOLE), 1, seed).splits["train"]
        assert sorted(train.labels) == [0, 1]
        seen |= set(train.paths)
    assert seen == {*SPLITS["train"].paths, *SPLITS["val"].paths}


def test_without_test_photos_it_is_refused() -> None:
    splits = {name: SPLITS[name] for name in ("train", "val")}
    without = ImageDataset(Path("/p"), "made", ("daisy", "iris"), None, splits)
    with pytest.raises(
        UsageError, match=re.escape("data.protocol=trainval: /p has no test photos")
    ):
        trainval(without)
