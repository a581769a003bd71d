"""Split classes into train, val and test; select k images per class; combine train and val."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flowertune.data.dataset import ImageDataset, Split
from flowertune.errors import UsageError, printable
from flowertune.seeding import derive_seed

ClassFiles = dict[str, list[Path]]  # class name -> its files, both sorted


def split_classes(
    classes: ClassFiles,
    splits: Sequence[str],
    seed: int,
    groups: Mapping[Path, str] | None = None,
) -> dict[str, ClassFiles]:
    """Split each class separately into `splits`, of which "train" gets the rest.

    Of n images, n / 5 (rounded, at least one) go to each other split. The choice depends only on
    (seed, "split", class, file name); the Unicode form of the name does not matter. If `groups`
    maps files to groups, whole groups are assigned instead, so that each class comes as close to
    these numbers as its groups allow; the choice then depends on all classes.
    """
    others = [split for split in splits if split != "train"]
    fifths = {name: (len(files) + 2) // 5 for name, files in classes.items()}  # n / 5, rounded
    if groups is not None:
        split_of = _split_groups(classes, groups, others, fifths, seed)
        return {
            split: {
                name: [path for path in files if split_of[groups[path]] == split]
                for name, files in classes.items()
            }
            for split in splits
        }
    chosen: dict[str, ClassFiles] = {split: {} for split in splits}
    for name, files in classes.items():
        keys = {path: derive_seed(seed, f"split/{name}/{_nfc(path.name)}") for path in files}
        shuffled = sorted(files, key=keys.__getitem__)
        place_of = {path: place for place, path in enumerate(files)}.__getitem__
        for place, split in enumerate(others):
            part = shuffled[place * fifths[name] : (place + 1) * fifths[name]]
            chosen[split][name] = sorted(part, key=place_of)
        chosen["train"][name] = sorted(shuffled[len(others) * fifths[name] :], key=place_of)
    return chosen


def _split_groups(
    classes: ClassFiles,
    groups: Mapping[Path, str],
    others: Sequence[str],
    fifths: Mapping[str, int],
    seed: int,
) -> dict[str, str]:
    """Map each group to a split, large groups first.

    A group goes where its images lower the squared error of its classes' shares most. When a class
    has no more groups left than there are splits without its images, those splits come first, and
    its last group goes to train if that has none of its images yet.
    """
    contents: dict[str, Counter[str]] = defaultdict(Counter)  # group -> class -> images
    for name, files in classes.items():
        for path in files:
            contents[groups[path]][name] += 1
    left = Counter(name for counts in contents.values() for name in counts)  # groups of a class
    needs = {
        "train": {n: len(files) - len(others) * fifths[n] for n, files in classes.items()},
        **{split: dict(fifths) for split in others},
    }
    lacking = {name: set(needs) for name in classes}  # splits without images of the class
    chosen = {}
    keys = {group: derive_seed(seed, f"split group/{_nfc(group)}") for group in contents}
    for group in sorted(contents, key=lambda each: (-contents[each].total(), keys[each])):
        counts = contents[group]

        def gain(split: str, counts: Counter[str] = counts) -> tuple[int, float]:
            urgent = [name for name in counts if left[name] <= len(lacking[name])]
            share = sum(n * needs[split][c] / len(classes[c]) ** 2 for c, n in counts.items())
            return sum(split in lacking[name] for name in urgent), share

        last_for_train = any(left[name] == 1 and "train" in lacking[name] for name in counts)
        split = chosen[group] = "train" if last_for_train else max(needs, key=gain)
        for name, n in counts.items():
            needs[split][name] -= n
            left[name] -= 1
            lacking[name].discard(split)
    return chosen


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def k_shot(dataset: ImageDataset, shots: int, seed: int) -> ImageDataset:
    """Keep `shots` training images per class; the other splits are unchanged.

    Each image gets a sort key from (seed, "shots", class, file name). The first `shots` of a class
    are kept, in the order in which they were listed. So 2 shots contain the 1 shot, and the choice
    in a class depends neither on other classes nor on the folder's location. With train and val
    combined, two images of a class may share a name; their keys differ.

    Raises UsageError if a class has fewer than `shots` training images.
    """
    train = dataset.splits["train"]
    name_counts: Counter[str] = Counter()
    by_class: list[list[tuple[int, int]]] = [[] for _ in dataset.class_names]  # (key, row)
    for row, (path, label) in enumerate(zip(train.paths, train.labels, strict=True)):
        purpose = f"shots/{dataset.class_names[label]}/{_nfc(path.name)}"
        by_class[label].append((derive_seed(seed, purpose, step=name_counts[purpose]), row))
        name_counts[purpose] += 1
    small_classes = [
        f"{name} ({len(images)})"
        for name, images in zip(dataset.class_names, by_class, strict=True)
        if len(images) < shots
    ]
    if small_classes:
        raise UsageError(
            f"data.shots={shots}: {len(small_classes)} of {len(dataset.class_names)} classes have"
            " fewer training images:"
            f" {printable(', '.join(small_classes[:5]))}{' ...' if len(small_classes) > 5 else ''};"
            " lower data.shots or add images"
        )
    rows = sorted(row for images in by_class for _, row in sorted(images)[:shots])
    subset = Split(
        tuple(train.paths[row] for row in rows), tuple(train.labels[row] for row in rows)
    )
    return replace(
        dataset,
        protocol=f"{dataset.protocol}; {shots}-shot with data.seed={seed}: train {len(subset):,}",
        splits={**dataset.splits, "train": subset},
    )


def trainval(dataset: ImageDataset) -> ImageDataset:
    """Merge train and val into one training split, train's images first.

    Raises UsageError if there are no test images to measure on.
    """
    if "test" not in dataset.splits:
        raise UsageError(
            f"data.protocol=trainval: {dataset.root} has no test images to measure on;"
            " add test/ or use data.protocol=official"
        )
    train, val = dataset.splits["train"], dataset.splits["val"]
    combined = Split(train.paths + val.paths, train.labels + val.labels)
    return replace(
        dataset,
        protocol=f"{dataset.protocol}; trainval: train and val combined into a training set of"
        f" {len(combined):,}, no selection, weights of the last epoch",
        splits={"train": combined, "test": dataset.splits["test"]},
    )
