"""A trained model measured on photos that may have other classes than its own."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowertune.config.data import FolderConfig
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.cache.store import store_key
from flowertune.data.dataset import ImageDataset
from flowertune.data.factory import Progress, list_images
from flowertune.data.image import Preprocessing
from flowertune.data.sources import folder
from flowertune.errors import UsageError, printable
from flowertune.inference.logits import prediction_table
from flowertune.metrics import SplitMetrics, measure
from flowertune.runs.directory import Run

SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True)
class Evaluation:
    """One split measured. Photos of classes that the model does not know are in no metric.

    unknown: these classes, with how many photos each has. missing: the model's classes that no
    photo is of. trained_on: how many of the photos the model was trained on. header, rows: what
    each photo was taken for, those of unknown classes too, as in a run's predictions.
    """

    metrics: SplitMetrics
    unknown: dict[str, int]
    missing: tuple[str, ...]
    trained_on: int
    header: list[str]
    rows: list[list[str]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the rows."""
        return {
            **self.metrics.to_dict(),
            "unknown": self.unknown,
            "missing": list(self.missing),
            "trained_on": self.trained_on,
        }


def list_images_to_evaluate(
    config: Config,
    split: str | None,
    are_others: bool,
    cache: Path,
    progress: Progress,
) -> ImageDataset:
    """The photos to measure on: of the split, or of each for "all".

    split: None for the run's own test photos (val where it has none), or for all of others. All
    photos of another folder are taken as they lie there, and need not be fit for a training.

    Raises UsageError where there are no such photos.
    """
    data = config.data
    is_whole = data.shots is None and data.protocol == "official"
    if are_others and isinstance(data, FolderConfig) and is_whole:
        dataset = folder.list_evaluation_images(Path(data.root))
        if split not in (None, "all") and "all" in dataset.splits:  # it is to be split first
            dataset = list_images(data, cache, progress)
    else:
        dataset = list_images(data, cache, progress)
    there = dataset.splits
    if split is None:
        split = "all" if are_others else "test" if "test" in there else "val"
    if split == "all":
        return dataset
    if split not in there:
        raise UsageError(f"split={split}: these photos have {', '.join(there)}")
    return replace(dataset, splits={split: there[split]})


def decode_images(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    bad_files: str,
    cache: Path,
    progress: Progress,
) -> CachedDataset:
    """Their pixels. Raises UsageError as `cache_dataset` does."""
    # a training left its photos' two forms in one store
    train = dataset.splits.get("train")
    key = None if train is None else store_key(train.paths, preprocessing, True)
    return cache_dataset(
        dataset,
        preprocessing,
        train_form=key is not None and (cache / "pixels" / key).is_dir(),
        folder=cache,
        bad_files=bad_files,
        progress=progress,
    )


def evaluate(
    logits: Tensor,
    photos: CachedDataset,
    split: str,
    class_names: Sequence[str],
    trained_on: frozenset[str],
) -> Evaluation:
    """Measures logits (N, C) of a split's photos by a model that knows C classes by name.

    trained_on: hashes of the contents of the photos that it was trained on. Raises UsageError where
    no photo is of a class that the model knows.
    """
    each, names = photos.splits[split], photos.dataset.class_names
    count = len(class_names)
    known_as = _known_as(names, class_names)
    labels = [known_as[label] for label in each.split.labels]
    unknown = Counter(names[label] for label in each.split.labels if known_as[label] >= count)
    known = [number for number, label in enumerate(labels) if label < count]
    if not known:
        raise UsageError(
            f"{printable(photos.dataset.root)}: none of its classes ({_some(list(unknown))}) is"
            f" one that the run knows ({_some(class_names)})"
        )
    true = torch.tensor(labels)[known]
    header, rows = prediction_table(photos.names(split), labels, logits, (*class_names, *names))
    present = set(true.tolist())
    return Evaluation(
        metrics=measure(logits[known], true),
        unknown=dict(unknown),
        missing=tuple(name for label, name in enumerate(class_names) if label not in present),
        trained_on=sum(sha256 in trained_on for sha256 in each.sha256),
        header=header,
        rows=rows,
    )


def training_hashes(run: Run) -> frozenset[str]:
    """Hashes of the contents of the photos that a run was trained on.

    Raises UsageError where its photos.csv is missing or damaged.
    """
    return frozenset(photo.sha256 for photo in run.photos() if photo.split == "train")


def _known_as(names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Where each of the names is among the class names; behind them for one that is not there."""
    # macOS writes the letters of a name apart from their accents
    composed = {unicodedata.normalize("NFC", name): at for at, name in enumerate(class_names)}
    exact = {name: at for at, name in enumerate(class_names)}
    return [
        exact.get(name, composed.get(unicodedata.normalize("NFC", name), len(class_names) + at))
        for at, name in enumerate(names)
    ]


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(printable(name) for name in names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"
