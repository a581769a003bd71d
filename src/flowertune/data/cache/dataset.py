"""Decode every image of a dataset once: uint8 pixels on the disk, memory-mapped."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowertune.data.cache.store import BadFile, CachedSplit, open_or_build
from flowertune.data.dataset import ImageDataset, Progress
from flowertune.data.image import Preprocessing
from flowertune.errors import UsageError, printable


@dataclass(frozen=True)
class CachedDataset:
    """A dataset with its pixels; `dataset` lacks the bad files."""

    dataset: ImageDataset
    splits: dict[str, CachedSplit]

    @property
    def bad(self) -> tuple[BadFile, ...]:
        """Bad files of all splits, with the reason."""
        return tuple(bad_file for split in self.splits.values() for bad_file in split.bad)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of class names and of each photo's split, name below the root, label and content.

        The same photos elsewhere have the same.
        """
        entries = {split: self._images(split) for split in self.splits}
        text = json.dumps([self.dataset.class_names, entries], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def image_names(self, split: str) -> list[str]:
        """Names of a split's images as a run's files print them: below the root, with slashes."""
        root = self.dataset.root
        return [path.relative_to(root).as_posix() for path in self.splits[split].split.paths]

    def rows(self) -> list[list[str]]:
        """Rows of photos.csv: split, name, class and SHA-256 of every image."""
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
    """Open the pixels of every split, decoding first what is not in `folder` yet.

    `train_form` asks for the training pixels of "train" too. `bad_files` says what happens where a
    file gives no picture: "stop" refuses with the whole list, "skip" leaves such files out.
    Raises UsageError: bad files, a class that loses its last photo of a split by leaving them out,
    a folder that cannot be written.
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
            f"{len(bad):,} of {total:,} files in {printable(dataset.root)} give no picture:\n"
            f"{lines}Repair or remove them, or go on without them: data.bad_files=skip"
        )
    for name, split in dataset.splits.items():
        missing = sorted(set(split.labels) - set(splits[name].split.labels))
        if missing:
            classes = ", ".join(repr(dataset.class_names[label]) for label in missing)
            raise UsageError(
                f"without the files that give no picture, {name} has no photo left of {classes}:\n"
                f"{lines}Repair or replace them."
            )
    note = f"; {len(bad):,} of these left out, which give no picture" if bad else ""
    decoded = {name: cached.split for name, cached in splits.items()}
    dataset = replace(dataset, splits=decoded, protocol=dataset.protocol + note)
    return CachedDataset(dataset, splits)


def bad_file_lines(dataset: ImageDataset, bad: Sequence[BadFile]) -> list[str]:
    """Describe each bad file in one line: its name below the root and the reason."""
    root = dataset.root
    return [f"{printable(path.relative_to(root).as_posix())}: {reason}" for path, reason in bad]
