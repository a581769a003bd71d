"""Evaluate a trained model on images whose classes may differ from its own."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowertune.config.data import OwnImagesConfig
from flowertune.config.schema import Config
from flowertune.data import dataset as datasets
from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.cache.store import store_key
from flowertune.data.dataset import ImageDataset, Progress
from flowertune.data.factory import list_evaluation_images, list_images
from flowertune.data.image import Preprocessing
from flowertune.data.sources.layout import fold
from flowertune.errors import UsageError, printable
from flowertune.inference.logits import prediction_table
from flowertune.metrics import measure, reported_split

SPLITS = (*datasets.SPLITS, "all")


def list_images_to_evaluate(
    config: Config, split: str | None, is_other_dataset: bool, cache: Path, progress: Progress
) -> ImageDataset:
    """List the images of a split, or of all splits if `split` is "all".

    None selects the run's own test split (val if it has none), or all images of another dataset.
    Another folder need not be suitable for training. Raises UsageError if there is no such split.
    """
    data = config.data
    is_whole = data.shots is None and data.protocol == "official"
    if is_other_dataset and isinstance(data, OwnImagesConfig) and is_whole:
        dataset = list_evaluation_images(data)
        if split not in (None, "all") and "all" in dataset.splits:  # split it first
            dataset = list_images(data, cache, progress)
    else:
        dataset = list_images(data, cache, progress)
    splits = dataset.splits
    if split is None:
        split = "all" if is_other_dataset else reported_split(splits)
    if split == "all":
        return dataset
    if split not in splits:
        raise UsageError(f"split={split}: not in this dataset; available: {', '.join(splits)}")
    return replace(dataset, splits={split: splits[split]})


def decode_images(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    bad_files: str,
    cache: Path,
    progress: Progress,
) -> CachedDataset:
    """Decode the images of a dataset. Raises UsageError like `cache_dataset`."""
    # if a training stored train and eval pixels together, use that store
    train = dataset.splits.get("train")
    train_key = None if train is None else store_key(train.paths, preprocessing, True)
    return cache_dataset(
        dataset,
        preprocessing,
        train_form=train_key is not None and (cache / "pixels" / train_key).is_dir(),
        folder=cache,
        bad_files=bad_files,
        progress=progress,
    )


def evaluate(
    logits: Float[Tensor, "n c"],
    images: CachedDataset,
    split: str,
    class_names: Sequence[str],
    trained_on: Collection[str],
) -> tuple[dict[str, Any], tuple[list[str], list[list[str]]]]:
    """Compute the metrics of a split from its logits, and the table of its predictions.

    Classes are matched by name. Images of unknown classes are in the table, but in no metric. The
    metrics are those of results.json plus "unknown" (unknown classes with their number of images),
    "missing" (classes of the model without images) and "trained_on" (number of images whose hash
    is in `trained_on`).

    Raises UsageError if no image is of a known class.
    """
    cached, names = images.splits[split], images.dataset.class_names
    n = len(class_names)
    to_model = _match_class_names(names, class_names)
    labels = [to_model[label] for label in cached.split.labels]
    unknown = Counter(names[label] for label in cached.split.labels if to_model[label] >= n)
    known = [index for index, label in enumerate(labels) if label < n]
    if not known:
        raise UsageError(
            f"{printable(images.dataset.root)}: none of its classes"
            f" ({_join(list(unknown))}) are classes of the run ({_join(class_names)})"
        )
    targets = torch.tensor(labels)[known]
    present = set(targets.tolist())
    metrics = {
        **asdict(measure(logits[known], targets)),
        "unknown": dict(unknown),
        "missing": [name for label, name in enumerate(class_names) if label not in present],
        "trained_on": sum(sha256 in trained_on for sha256 in cached.sha256),
    }
    return metrics, prediction_table(
        images.image_names(split), labels, logits, (*class_names, *names)
    )


def _match_class_names(names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Map each name to its index in `class_names`, or to an index after them if unknown."""
    folded = {fold(name): index for index, name in enumerate(class_names)}
    exact = {name: index for index, name in enumerate(class_names)}
    return [
        exact.get(name, folded.get(fold(name), len(class_names) + index))
        for index, name in enumerate(names)
    ]


def _join(names: Sequence[str]) -> str:
    listed = ", ".join(printable(name) for name in names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"
