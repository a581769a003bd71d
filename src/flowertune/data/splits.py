"""Select images of a dataset: k per class, or train and val together."""

from collections import Counter
from dataclasses import replace

from flowertune.data.dataset import ImageDataset, Split
from flowertune.errors import UsageError, printable
from flowertune.seeding import derive_seed


def k_shot(dataset: ImageDataset, shots: int, seed: int) -> ImageDataset:
    """Keep `shots` training images of each class; the other splits stay whole.

    Each image gets a sort key in its class from (seed, "shots", class, file name), and the first
    `shots` are kept in the order the source listed them: 2 shots contain the 1 shot, and what is
    drawn for one class does not depend on the others or on where the folder lies. Where train and
    val are one training set, two photos of a class may have one name: they draw apart.

    Raises UsageError where a class has fewer than `shots` training photos.
    """
    train = dataset.splits["train"]
    name_counts: Counter[str] = Counter()
    by_class: list[list[tuple[int, int]]] = [[] for _ in dataset.class_names]  # of key and row
    for row, (path, label) in enumerate(zip(train.paths, train.labels, strict=True)):
        purpose = f"shots/{dataset.class_names[label]}/{path.name}"
        by_class[label].append((derive_seed(seed, purpose, step=name_counts[purpose]), row))
        name_counts[purpose] += 1
    small_classes = [
        f"{name} ({len(images)})"
        for name, images in zip(dataset.class_names, by_class, strict=True)
        if len(images) < shots
    ]
    if small_classes:
        raise UsageError(
            f"data.shots={shots}: {len(small_classes)} of {len(dataset.class_names)} classes of"
            f" {printable(dataset.root)} have fewer training photos:"
            f" {printable(', '.join(small_classes[:5]))}{' ...' if len(small_classes) > 5 else ''};"
            " lower data.shots or add photos"
        )
    rows = sorted(row for images in by_class for _, row in sorted(images)[:shots])
    subset = Split(
        tuple(train.paths[row] for row in rows), tuple(train.labels[row] for row in rows)
    )
    return replace(
        dataset,
        protocol=f"{dataset.protocol}, {shots}-shot by data.seed={seed}: train {len(subset):,}",
        splits={**dataset.splits, "train": subset},
    )


def trainval(dataset: ImageDataset) -> ImageDataset:
    """Merge train and val into one training split, train's images first.

    Raises UsageError where there are no test photos: nothing would be left to measure on.
    """
    if "test" not in dataset.splits:
        raise UsageError(
            f"data.protocol=trainval: {dataset.root} has no test photos, so nothing would be left"
            " to measure on; add test/ or use data.protocol=official"
        )
    train, val = dataset.splits["train"], dataset.splits["val"]
    combined = Split(train.paths + val.paths, train.labels + val.labels)
    return replace(
        dataset,
        protocol=f"{dataset.protocol}; trainval: train and val are one training set of"
        f" {len(combined):,}, nothing is selected, the last weights count",
        splits={"train": combined, "test": dataset.splits["test"]},
    )
