import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from flowertune.data.dataset import ImageDataset, Split
from flowertune.data.splits import k_shot, split_classes
from flowertune.errors import UsageError


def make_set(counts: dict[str, int], root: Path = Path("/photos")) -> ImageDataset:
    pairs = [
        (root / "train" / name / f"{number}.jpg", label)
        for label, (name, count) in enumerate(counts.items())
        for number in range(count)
    ]
    pairs = pairs[::2] + pairs[1::2]  # classes mixed, as in Flowers-102
    train = Split(tuple(path for path, _ in pairs), tuple(label for _, label in pairs))
    val = Split(tuple(root / "val" / name / "a.jpg" for name in counts), tuple(range(len(counts))))
    return ImageDataset(root, "made", tuple(counts), None, {"train": train, "val": val})


def chosen(dataset: ImageDataset, shots: int, seed: int) -> set[str]:
    paths = k_shot(dataset, shots, seed).splits["train"].paths
    return {path.relative_to(dataset.root).as_posix() for path in paths}


def test_k_photos_of_each_class_in_the_order_of_the_source_and_val_whole() -> None:
    whole = make_set({"daisy": 9, "iris": 5, "rose": 7})
    few = k_shot(whole, 4, seed=0)
    train = few.splits["train"]
    assert [train.labels.count(label) for label in range(3)] == [4, 4, 4]
    drawn = zip(train.paths, train.labels, strict=True)
    assert all(path.parent.name == few.class_names[label] for path, label in drawn)
    order = [whole.splits["train"].paths.index(path) for path in train.paths]
    assert order == sorted(order)
    assert few.splits["val"] == whole.splits["val"]
    assert few.protocol == "made; 4-shot with data.seed=0: train 12"


def test_more_shots_contain_fewer() -> None:
    whole = make_set({"daisy": 9, "iris": 8})
    draws = [chosen(whole, shots, seed=3) for shots in range(1, 9)]
    assert all(fewer < more for fewer, more in itertools.pairwise(draws))


def test_the_draw_depends_only_on_seed_and_class() -> None:
    whole = make_set({"daisy": 30, "iris": 30})
    assert chosen(whole, 5, seed=0) == chosen(whole, 5, seed=0)
    assert chosen(whole, 5, seed=0) != chosen(whole, 5, seed=1)
    elsewhere = make_set({"aster": 12, "daisy": 30, "iris": 30}, root=Path("/moved"))
    kept = {name for name in chosen(elsewhere, 5, seed=0) if "aster" not in name}
    assert kept == chosen(whole, 5, seed=0)
    numbers = [
        {Path(name).name for name in chosen(whole, 5, seed=0) if flower in name}
        for flower in ("daisy", "iris")
    ]
    assert numbers[0] != numbers[1]  # two classes with the same file names draw apart


def test_every_photo_can_be_drawn() -> None:
    whole = make_set({"daisy": 6, "iris": 6})
    seen = set().union(*(chosen(whole, 1, seed) for seed in range(60)))
    assert len(seen) == 12


def test_images_with_the_same_name_have_different_keys() -> None:
    """train/ and val/ combined, both with file names from 0.jpg."""
    counts = {"daisy": 20, "iris": 20}
    one, two = make_set(counts), make_set(counts, root=Path("/photos/more"))
    train, more = one.splits["train"], two.splits["train"]
    joined = Split(train.paths + more.paths, train.labels + more.labels)
    both = replace(one, splits={"train": joined})
    # which of the first 20 numbers are drawn says nothing of the second 20
    pairs = 0
    for seed in range(50):
        paths = k_shot(both, 10, seed).splits["train"].paths
        drawn = {path.relative_to("/photos").as_posix() for path in paths}
        pairs += sum(f"more/{name}" in drawn for name in drawn)
    assert pairs / 50 == pytest.approx(2 * 20 * (10 / 40) * (9 / 39), abs=0.6)


def test_a_class_with_too_few_is_named_with_its_count() -> None:
    with pytest.raises(
        UsageError,
        match=r"data.shots=6: 1 of 2 classes have fewer training images: iris \(5\); lower",
    ):
        k_shot(make_set({"daisy": 6, "iris": 5}), 6, seed=0)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((60, 20, 20), (60, 20, 20)),  # the largest group is trained on
        ((90, 5, 5), (90, 5, 5)),
        ((30, 10, 10, 10, 5, 5), (40, 15, 15)),
        ((10, 8, 6, 4, 2) * 2, (36, 12, 12)),
        ((10, 10, 10), (10, 10, 10)),  # no split without the class
        ((1,) * 50, (30, 10, 10)),
    ],
)
def test_groups_of_any_size_come_close_to_the_shares(
    sizes: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    groups = {
        Path(f"/{name}/{group}_{number}.jpg"): f"{name}{group}"
        for name in ("ash", "elm")
        for group, size in enumerate(sizes)
        for number in range(size)
    }
    classes = {n: [path for path in groups if path.parent.name == n] for n in ("ash", "elm")}
    for seed in range(3):
        found = split_classes(classes, ("train", "val", "test"), seed, groups)
        for name in classes:
            assert tuple(len(split[name]) for split in found.values()) == expected


def test_groups_across_classes_stay_whole_and_follow_the_seed() -> None:
    groups = {
        Path(f"/{name}/{day}_{number}.jpg"): f"day {day}"
        for name in ("ash", "elm", "oak")
        for day in range(10)
        for number in range(2)
    }
    classes = {n: [p for p in groups if p.parent.name == n] for n in ("ash", "elm", "oak")}
    chosen = []
    for seed in range(4):
        found = split_classes(classes, ("train", "val", "test"), seed, groups)
        days = [{groups[p] for files in split.values() for p in files} for split in found.values()]
        assert [len(split) for split in days] == [6, 2, 2]
        assert len(set.union(*days)) == 10
        chosen.append(tuple(map(frozenset, days)))
    assert len(set(chosen)) > 1
