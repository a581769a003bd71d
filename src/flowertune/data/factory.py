"""Build datasets, batches and augmentation settings from the config."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from flowertune.config.augmentation import AugmentationConfig
from flowertune.config.data import DataConfig, FolderConfig, OwnImagesConfig, TableConfig
from flowertune.config.loss import ClassBatches
from flowertune.config.schema import Config
from flowertune.data import splits
from flowertune.data.cache.store import CachedSplit
from flowertune.data.cache_dir import touch
from flowertune.data.dataset import SPLITS, ImageDataset, Progress
from flowertune.data.device_pixels import are_resident
from flowertune.data.samplers import balanced_batches, epoch_batches, pk_batches
from flowertune.data.sources import flowers102, folder, table
from flowertune.data.sources.class_names import numbered_note
from flowertune.data.sources.synthetic import dataset as synthetic
from flowertune.data.transforms.augment import AugmentSettings
from flowertune.data.transforms.mixup import MixSettings
from flowertune.files import expand_user


def list_images(
    data: DataConfig, cache: Path, progress: Progress, problems: list[str] | None = None
) -> ImageDataset:
    """List the dataset's images by `data.protocol`, with `data.shots` training images per class.

    `problems` gets what is wrong with the user's folders or table, instead of an error.
    """
    root, list_source = _SOURCES[data.name](data, cache)
    if isinstance(data, OwnImagesConfig) and problems is not None:
        list_source = partial(list_source, problems=problems)
    dataset = list_source(progress)
    if note := numbered_note(dataset.class_names, data.templates[0]):
        dataset = dataset.with_note(note)
    if cache in root.parents:
        touch(root)
    if data.protocol == "trainval":
        dataset = splits.trainval(dataset)
    return dataset if data.shots is None else splits.k_shot(dataset, data.shots, data.seed)


def list_evaluation_images(data: OwnImagesConfig) -> ImageDataset:
    """List all images of the user with their classes, which need not suit a training."""
    _, arguments = _own_arguments(data)
    module = table if "columns" in arguments else folder
    dataset: ImageDataset = module.list_evaluation_images(**arguments)
    return dataset


def image_root(data: DataConfig, cache: Path) -> Path:
    """Return the folder that the paths in a run's photos.csv start from, even if it is missing."""
    return _SOURCES[data.name](data, cache)[0]


# the folder that image paths start from, and a function that lists the images
Source = tuple[Path, Callable[..., ImageDataset]]


def _own_images(data: Any, cache: Path) -> Source:
    root, arguments = _own_arguments(data)
    module = table if "columns" in arguments else folder
    arguments |= {"seed": data.seed, "min_images": data.min_images}
    return root, lambda progress, **more: module.list_images(**arguments, **more)


def _own_arguments(data: Any) -> tuple[Path, dict[str, Any]]:
    """Return the folder of images, and the arguments that list them; data.root may be a table."""
    path = expand_user(data.path if isinstance(data, TableConfig) else data.root).absolute()
    names = None if data.names is None else Path(data.names)
    if isinstance(data, FolderConfig) and path.suffix.lower() not in (".csv", ".tsv"):
        return path, {"root": path, "names": names, "group": data.group}
    columns, root = table.Columns(group=data.group), None
    if isinstance(data, TableConfig):
        columns = table.Columns(data.image_column, data.label_column, data.split_column, data.group)
        root = None if data.root is None else Path(data.root)
    skip = data.bad_files == "skip"
    arguments = {"path": path, "root": root, "columns": columns, "skip": skip, "names": names}
    return table.image_root(path, root), arguments


def _flowers102(data: Any, cache: Path) -> Source:
    root = cache / "flowers102" if data.root is None else expand_user(data.root).absolute()
    return root, lambda progress: flowers102.list_images(root, url=data.url, progress=progress)


def _synthetic(data: Any, cache: Path) -> Source:
    root, seed = cache / "synthetic", data.seed
    counts = {split: getattr(data, f"{split}_per_class") for split in SPLITS}
    return (
        synthetic.dataset_folder(root, counts=counts, seed=seed),
        lambda progress: synthetic.list_images(root, counts=counts, seed=seed, progress=progress),
    )


_SOURCES: dict[str, Callable[[Any, Path], Source]] = {
    "folder": _own_images,
    "table": _own_images,
    "flowers102": _flowers102,
    "synthetic": _synthetic,
}


def pixels_are_resident(
    data: DataConfig, dataset: ImageDataset, train: CachedSplit, device: torch.device
) -> bool:
    """Decide whether a run keeps its pixels on the device, all of them or none.

    Counts the evaluation form of all images, and the training form of `train` if it has one.
    """
    n_images = sum(len(split) for split in dataset.splits.values())
    total_bytes = n_images * train.eval_pixels.array.nbytes // len(train.eval_pixels)
    if train.train_pixels is not None:
        total_bytes += train.train_pixels.array.nbytes
    return are_resident(data.residency, total_bytes, device)


def build_augmentation(
    settings: AugmentationConfig, size: tuple[int, int], epochs: int
) -> AugmentSettings | None:
    """Build the augmentation of a training of `epochs` epochs; None without augmentation."""
    if settings.name == "none":
        return None
    options: Any = settings
    mixing = None
    if options.name in ("mixup", "cutmix"):
        mixing = MixSettings(options.name, options.alpha, epochs - options.mix_off_epochs)
    keys = {each.name for each in fields(AugmentSettings)} - {"size", "mixing"}
    values = {key: getattr(options, key) for key in keys}
    values |= {"scale": tuple(options.scale), "ratio": tuple(options.ratio)}
    return AugmentSettings(size=size, mixing=mixing, **values)


def training_batches(
    config: Config, labels: Int64[Tensor, "n"]
) -> Callable[[int], list[Int64[Tensor, "_"]]]:
    """Map an epoch (from 1) to its batches of image indices, P x K if the loss needs it."""
    loss, batch_size = config.loss, config.trainer.batch_size
    if isinstance(loss, ClassBatches):
        classes = loss.classes_per_batch or batch_size // loss.samples_per_class
        return partial(pk_batches, labels, classes, loss.samples_per_class, config.seed)
    if config.data.balanced:
        return partial(balanced_batches, labels, batch_size, config.seed)
    return partial(epoch_batches, len(labels), batch_size, config.seed)
