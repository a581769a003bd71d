"""Choose among the images of a data set: k per class, or train and val together."""

from collections import Counter
from dataclasses import replace

from flowertune.data.dataset import ImageDataset, Split
from flowertune.errors import UsageError, printable
from flowertune.seeding import derive_seed


def k_shot(dataset: ImageDataset, shots: int, seed: int) -> ImageDataset:
    """Keep `shots` training photos of each class; the other splits stay whole.

    Each photo gets a place in its class from (seed, "shots", class, file name), and the first
    `shots` are kept in the order the source listed them: 2 shots contain the 1 shot, and what is
    drawn for one class does not depend on the others or on where the folder lies. Where train and
    val are one training set, two photos of a class may have one name: they draw apart.

    Raises UsageError where a class has fewer than `shots` training photos.
    """
    train = dataset.splits["train"]
    counts = Counter(train.labels)
    short = [
        f"{name} ({counts[label]})"
        for label, name in enumerate(dataset.class_names)
        if counts[label] < shots
    ]
    if short:
        raise UsageError(
            f"data.shots={shots}: {len(short)} of {len(dataset.class_names)} classes of"
            f" {printable(dataset.root)} have fewer training photos:"
            f" {printable(', '.join(short[:5]))}{' ...' if len(short) > 5 else ''};"
            " lower data.shots or add photos"
        )

    namesakes: Counter[str] = Counter()
    places = []
    for path, label in zip(train.paths, train.labels, strict=True):
        purpose = f"shots/{dataset.class_names[label]}/{path.name}"
        places.append(derive_seed(seed, purpose, step=namesakes[purpose]))
        namesakes[purpose] += 1

    taken: Counter[int] = Counter()
    kept = []
    for index in sorted(range(len(train)), key=places.__getitem__):
        if taken[train.labels[index]] < shots:
            taken[train.labels[index]] += 1
            kept.append(index)
    kept.sort()
    chosen = Split(
        tuple(train.paths[index] for index in kept), tuple(train.labels[index] for index in kept)
    )
    return replace(
        dataset,
        protocol=f"{dataset.protocol}, {shots}-shot by data.seed={seed}: train {len(chosen):,}",
        splits={**dataset.splits, "train": chosen},
    )


def trainval(dataset: ImageDataset) -> ImageDataset:
    """The same task with train and val as its one training split, train's photos first.

    Raises UsageError where there are no test photos: nothing would be left to measure on.
    """
    if "test" not in dataset.splits:
        raise UsageError(
            f"data.protocol=trainval: {dataset.root} has no test photos, so nothing would be left"
            " to measure on; add test/ or use data.protocol=official"
        )
    train, val = dataset.splits["train"], dataset.splits["val"]
    joined = Split(train.paths + val.paths, train.labels + val.labels)
    return replace(
        dataset,
        protocol=f"{dataset.protocol}; trainval: train and val are one training set of"
        f" {len(joined):,}, nothing is selected, the last weights count",
        splits={"train": joined, "test": dataset.splits["test"]},
    )
