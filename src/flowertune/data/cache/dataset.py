"""Decode every image of a dataset once, into memory-mapped uint8 pixels on disk."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from flowertune.data.cache.store import BadFile, CachedSplit, open_or_build
from flowertune.data.dataset import ImageDataset, Progress
from flowertune.data.image import Preprocessing
from flowertune.errors import UsageError, printable


@dataclass(frozen=True)
class CachedDataset:
    """A dataset with its pixels; `dataset` lists only readable images."""

    dataset: ImageDataset
    splits: dict[str, CachedSplit]

    @property
    def bad(self) -> tuple[BadFile, ...]:
        """Unreadable images of all splits, with reasons."""
        return tuple(bad_file for split in self.splits.values() for bad_file in split.bad)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of class names and of each image's split, relative path, label and content.

        It does not depend on the location of the folder.
        """
        entries = {split: self._images(split) for split in self.splits}
        text = json.dumps([self.dataset.class_names, entries], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def image_names(self, split: str) -> list[str]:
        """Return a split's image names as in a run's files: relative paths with slashes."""
        root = self.dataset.root
        return [path.relative_to(root).as_posix() for path in self.splits[split].split.paths]

    def copies_note(self) -> str | None:
        """Say how many images have an exact copy under another label or in another split."""
        places: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for split in self.splits:
            for _, label, sha256 in self._images(split):
                places[sha256].add((split, label))
        labels = sum(len({label for _, label in each}) > 1 for each in places.values())
        splits = sum(len({split for split, _ in each}) > 1 for each in places.values())
        if not labels and not splits:
            return None
        return (
            f"exact copies of images: under two labels {labels:,}, in two splits {splits:,};"
            " flowertune data check lists them"
        )

    def rows(self) -> list[list[str]]:
        """Return the rows of photos.csv: split, name, class and SHA-256 of every image."""
        return [
            [split, name, self.dataset.class_names[label], sha256]
            for split in self.splits
            for name, label, sha256 in self._images(split)
        ]

    def _images(self, split: str) -> list[tuple[str, int, str]]:
        cached = self.splits[split]
        return list(zip(self.image_names(split), cached.split.labels, cached.sha256, strict=True))


def cache_dataset(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    *,
    train_form: bool,
    folder: Path,
    bad_files: str,
    progress: Progress,
) -> CachedDataset:
    """Open the pixels of every split, decoding those that are not in `folder` yet.

    `train_form` adds the training pixels of "train". With `bad_files` "stop", unreadable images
    are refused in one list; with "skip" they are left out. Raises UsageError for unreadable images,
    a class without a readable image in a split, and a folder that cannot be written.
    """
    splits = open_or_build(
        dataset.splits,
        preprocessing,
        train_form=["train"] if train_form else [],
        folder=folder / "pixels",
        progress=progress,
    )
    bad = CachedDataset(dataset, splits).bad
    lines = "".join(f"  {line}\n" for line in bad_file_lines(dataset, bad))
    if bad and bad_files == "stop":
        total = sum(len(split) for split in dataset.splits.values())
        raise UsageError(
            f"{len(bad):,} of {total:,} files in {printable(dataset.root)} cannot be read as "
            f"images:\n{lines}Repair or remove them, or leave them out with data.bad_files=skip"
        )
    for name, split in dataset.splits.items():
        missing = sorted(set(split.labels) - set(splits[name].split.labels))
        if missing:
            classes = ", ".join(repr(dataset.class_names[label]) for label in missing)
            raise UsageError(
                f"{name} has no readable image of {classes}; unreadable files:\n"
                f"{lines}Repair or replace them"
            )
    note = f"; {len(bad):,} of these left out as unreadable" if bad else ""
    decoded = {name: cached.split for name, cached in splits.items()}
    dataset = replace(dataset, splits=decoded, protocol=dataset.protocol + note)
    return CachedDataset(dataset, splits)


def bad_file_lines(dataset: ImageDataset, bad: Sequence[BadFile]) -> list[str]:
    """Return one line per unreadable image: its relative path and the reason."""
    root = dataset.root
    return [f"{printable(path.relative_to(root).as_posix())}: {reason}" for path, reason in bad]
