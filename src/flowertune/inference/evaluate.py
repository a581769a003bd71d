"""Evaluate a trained model on images whose classes may differ from its own."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowertune.config.data import FolderConfig
from flowertune.config.schema import Config
from flowertune.data import dataset as datasets
from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.cache.store import store_key
from flowertune.data.dataset import ImageDataset, Progress
from flowertune.data.factory import list_images
from flowertune.data.image import Preprocessing
from flowertune.data.sources import folder
from flowertune.errors import UsageError, printable
from flowertune.inference.logits import prediction_table
from flowertune.metrics import measure, reported_split

SPLITS = (*datasets.SPLITS, "all")


def list_images_to_evaluate(
    config: Config, split: str | None, is_other_dataset: bool, cache: Path, progress: Progress
) -> ImageDataset:
    """List the images of the split, or of every split for "all".

    split: None for the run's own test photos (val where it has none), or for all of others. All
    photos of another folder are taken as they lie there, and need not be fit for a training.

    Raises UsageError where there are no such photos.
    """
    data = config.data
    is_whole = data.shots is None and data.protocol == "official"
    if is_other_dataset and isinstance(data, FolderConfig) and is_whole:
        dataset = folder.list_evaluation_images(Path(data.root))
        if split not in (None, "all") and "all" in dataset.splits:  # it is to be split first
            dataset = list_images(data, cache, progress)
    else:
        dataset = list_images(data, cache, progress)
    splits = dataset.splits
    if split is None:
        split = "all" if is_other_dataset else reported_split(splits)
    if split == "all":
        return dataset
    if split not in splits:
        raise UsageError(f"split={split}: these photos have {', '.join(splits)}")
    return replace(dataset, splits={split: splits[split]})


def decode_images(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    bad_files: str,
    cache: Path,
    progress: Progress,
) -> CachedDataset:
    """Decode the images of a dataset. Raises UsageError as `cache_dataset` does."""
    # a training left its photos' two forms in one store
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
    """Compute the metrics of a split from its logits, and its predictions as a table.

    Classes are matched by name. Images of those that the model does not know are in no metric, but
    in the table. The metrics are those of results.json and, besides, "unknown": these classes,
    with how many images each has; "missing": the model's classes that no image is of;
    "trained_on": how many of the images it was trained on, by the hashes in `trained_on`.

    Raises UsageError where no image is of a class that the model knows.
    """
    cached, names = images.splits[split], images.dataset.class_names
    n = len(class_names)
    to_model = _match_class_names(names, class_names)
    labels = [to_model[label] for label in cached.split.labels]
    unknown = Counter(names[label] for label in cached.split.labels if to_model[label] >= n)
    known = [index for index, label in enumerate(labels) if label < n]
    if not known:
        raise UsageError(
            f"{printable(images.dataset.root)}: none of its classes ({_join(list(unknown))}) is"
            f" one that the run knows ({_join(class_names)})"
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
    """Map each name to its index in `class_names`, or to an index behind them if unknown."""
    # macOS writes the letters of a name apart from their accents
    composed = {unicodedata.normalize("NFC", name): index for index, name in enumerate(class_names)}
    exact = {name: index for index, name in enumerate(class_names)}
    return [
        exact.get(name, composed.get(unicodedata.normalize("NFC", name), len(class_names) + index))
        for index, name in enumerate(names)
    ]


def _join(names: Sequence[str]) -> str:
    listed = ", ".join(printable(name) for name in names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"
