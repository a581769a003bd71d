"""From config to photos: which source lists them, and under which folder they lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowertune.config.data import DataConfig
from flowertune.data import protocol, shots
from flowertune.data.cache_folder import mark_used
from flowertune.data.photos import PhotoSet
from flowertune.data.sources import flowers102, folder, synthetic

Progress = Callable[[str, int, int | None], None]


def list_photos(data: DataConfig, cache: Path, progress: Progress) -> PhotoSet:
    """The photos of the source under `data.protocol`, k of each class for training if asked for."""
    photo_set = _SOURCES[data.name](data, cache, progress)
    if data.protocol == "trainval":
        photo_set = protocol.trainval(photo_set)
    return photo_set if data.shots is None else shots.k_shot(photo_set, data.shots, data.seed)


def photo_root(data: DataConfig, cache: Path) -> Path:
    """The folder of the source's photos, whether or not it is there; nothing is fetched or drawn.

    It is what the paths in photos.csv of a run begin at.
    """
    return _ROOTS[data.name](data, cache)


def _folder(data: Any, cache: Path, progress: Progress) -> PhotoSet:
    return folder.photo_set(_folder_root(data, cache), seed=data.seed)


def _folder_root(data: Any, cache: Path) -> Path:
    return Path(data.root).expanduser().absolute()


def _flowers102(data: Any, cache: Path, progress: Progress) -> PhotoSet:
    root = _flowers102_root(data, cache)
    photo_set = flowers102.photo_set(root, url=data.url, progress=progress)
    if data.root is None:
        mark_used(root)
    return photo_set


def _flowers102_root(data: Any, cache: Path) -> Path:
    return cache / "flowers102" if data.root is None else _folder_root(data, cache)


def _synthetic(data: Any, cache: Path, progress: Progress) -> PhotoSet:
    photo_set = synthetic.photo_set(cache / "synthetic", **_drawn(data), progress=progress)
    mark_used(photo_set.root)
    return photo_set


def _synthetic_root(data: Any, cache: Path) -> Path:
    return synthetic.drawn_folder(cache / "synthetic", **_drawn(data))


def _drawn(data: Any) -> dict[str, int]:
    """What is drawn, as the source's functions take it."""
    names = ("train_per_class", "val_per_class", "test_per_class", "seed")
    return {name: getattr(data, name) for name in names}


_SOURCES: dict[str, Callable[[Any, Path, Progress], PhotoSet]] = {
    "folder": _folder,
    "flowers102": _flowers102,
    "synthetic": _synthetic,
}
_ROOTS: dict[str, Callable[[Any, Path], Path]] = {
    "folder": _folder_root,
    "flowers102": _flowers102_root,
    "synthetic": _synthetic_root,
}
