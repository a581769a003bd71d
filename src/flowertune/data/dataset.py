"""Datasets as sources list them: image paths, labels and splits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val", "test")
# progress(description, done, total); total is None where it is not known
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

    `splits` holds "train" and "val", and "test" where the task has one; after `splits.trainval`
    "train" and "test". `descriptions` is one line for each class, for prompts that describe rather
    than name (None where there is none).
    `protocol` says in words which photos train, select and test.
    """

    root: Path
    protocol: str
    class_names: tuple[str, ...]
    descriptions: tuple[str, ...] | None
    splits: dict[str, Split]
