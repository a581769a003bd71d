"""Datasets as lists of image paths, labels and splits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

SPLITS = ("train", "val", "test")
# progress(description, done, total); total is None if unknown
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Split:
    """Images with their labels, in a fixed order. `labels[i]` indexes the class names."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ImageDataset:
    """A classification dataset as lists of files; no image is decoded.

    `splits` holds "train", "val" and, if the dataset has one, "test"; after `splits.trainval`,
    "train" and "test". `descriptions` has one line per class, for prompts that describe a class
    instead of naming it; None without descriptions. `protocol` states in words which images are
    used for training, selection and testing. `notes` say what was left out or decided, a line each.
    """

    root: Path
    protocol: str
    class_names: tuple[str, ...]
    descriptions: tuple[str, ...] | None
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()

    def with_note(self, note: str) -> "ImageDataset":
        """Return the dataset with one more note."""
        return replace(self, notes=(*self.notes, note))
