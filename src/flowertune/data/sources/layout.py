"""Turn the files that a source has found into a dataset: choose classes, splits and names."""

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowertune.data.dataset import SPLITS, ImageDataset, Split
from flowertune.data.sources.class_names import rename_classes
from flowertune.data.sources.walk import other_files_note
from flowertune.data.splits import ClassFiles, split_classes
from flowertune.errors import UsageError, printable

SMALLEST_CLASS = {"val": 2, "test": 3}  # images that a class needs if these splits are cut


@dataclass
class Layout:
    """Files by split and class as a source found them; the split is "all" if none are given.

    `kind` begins the protocol. `others` counts the endings of files that are not images. `groups`
    maps files to what they show (a plant, a camera, a day) if images of a group must stay together.
    `hint` ends the error for too few classes. `problems` None: errors are raised; otherwise they
    are collected in it, as far as the others can still be found.
    """

    root: Path
    kind: str
    splits: dict[str, ClassFiles]
    notes: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    groups: Mapping[Path, str] | None = None
    hint: str = ""
    problems: list[str] | None = None

    def refuse(self, message: str) -> None:
        """Raise UsageError, or collect the message."""
        if self.problems is None:
            raise refusal(message)
        self.problems.append(printable(message))


def arrange(
    layout: Layout, *, seed: int, min_images: int | None = None, names: Path | None = None
) -> ImageDataset:
    """Build the dataset of a training; labels follow the sorted class names.

    Without splits, each class is split separately: of n images, n / 5 (rounded, at least one) go to
    val, as many to test and the rest to train. With train but no val, val is cut from train in the
    same way. See `split_classes` for what the choice depends on.

    Classes with fewer than `min_images` images (in train, if there is one) are left out. `names` is
    a file with names for the classes (`rename_classes`).

    Raises UsageError if there is no train, less than two classes, or too few images in a class.
    """
    root, splits, notes, groups = layout.root, layout.splits, layout.notes, layout.groups
    given = "train" if "train" in splits else "all"
    if given not in splits:
        layout.refuse(
            f"{root}: has {folder_names(splits)} but no train/; put the training images into"
            " train/, one folder per class"
        )
        return arrange_for_evaluation(layout, names=names)
    classes = _usable_classes(layout, splits[given], min_images)
    text = f"{layout.kind} {'/'.join(split for split in SPLITS if split in splits)}"
    if given == "all":
        _check_sizes(layout, classes, "test")
        text = f"{layout.kind} split 60/20/20 by data.seed={seed}"
        found = split_classes(classes, SPLITS, seed, groups)
    else:
        found = {name: _match_classes(layout, name, splits[name], classes) for name in splits}
        if "val" not in found:
            _check_sizes(layout, classes, "val")
            text += f", val cut from train by data.seed={seed}"
            found |= split_classes(classes, ("train", "val"), seed, groups)
    if groups is not None:
        text += ", whole groups"
        _note_groups(found, groups, notes)
    if left_out := len(splits[given]) - len(classes):
        text += f", without {left_out} classes"
        if min_images is not None:
            text += f" (data.min_images={min_images})"
    return _label(layout, text, classes, found, names)


def arrange_for_evaluation(layout: Layout, *, names: Path | None = None) -> ImageDataset:
    """Build a dataset of all images, to evaluate a trained model.

    A class may lack images in a split, and one class is enough. Raises UsageError if a split has no
    images with classes.
    """
    for split, classes in layout.splits.items():
        layout.splits[split] = {name: files for name, files in classes.items() if files}
        if not layout.splits[split] and layout.problems is None:
            place = layout.root if split == "all" else layout.root / split
            raise refusal(
                f"{place}: has no class folders with images; put the images into one folder per"
                " class"
            )
    class_names = sorted({name for classes in layout.splits.values() for name in classes})
    given = [split for split in SPLITS if split in layout.splits]
    text = f"{layout.kind} {'/'.join(given)}".rstrip()
    return _label(layout, text, class_names, layout.splits, names)


def _label(
    layout: Layout,
    text: str,
    class_names: Iterable[str],
    splits: Mapping[str, ClassFiles],
    names: Path | None,
) -> ImageDataset:
    """Label the files of each split with the index of their class in `class_names`."""
    class_names = tuple(class_names)
    labeled = {}
    for split in sorted(splits, key=[*SPLITS, "all"].index):
        files = [splits[split].get(name, []) for name in class_names]
        labels = (label for label, paths in enumerate(files) for _ in paths)
        labeled[split] = Split(tuple(itertools.chain(*files)), tuple(labels))
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in labeled.items())
    if layout.others:
        layout.notes.append(other_files_note(layout.others))
    if names is not None:  # a list is in the order of all classes, also of those left out
        given = layout.splits.get("train") or itertools.chain(*layout.splits.values())
        every = sorted({*class_names, *given})
        named = dict(zip(every, rename_classes(every, names), strict=True))
        pairs = [f"{name} = {named[name]}" for name in class_names]
        layout.notes.append(f"names from {names}: {shorten(pairs)}")
        class_names = tuple(named[name] for name in class_names)
    notes = tuple(map(printable, layout.notes))
    protocol = printable(f"{text}: {sizes}")
    return ImageDataset(layout.root, protocol, class_names, None, labeled, notes)


def _usable_classes(layout: Layout, classes: ClassFiles, min_images: int | None) -> ClassFiles:
    """Leave out classes without images or with fewer than `min_images`; two must remain."""
    notes = layout.notes
    if empty := [name for name, files in classes.items() if not files]:
        notes.append(f"left out {folder_names(empty)}: no images")
    usable = {name: files for name, files in classes.items() if len(files) >= (min_images or 1)}
    if small := [name for name in classes if name not in usable and name not in empty]:
        notes.append(f"left out by data.min_images={min_images}: {_counts(classes, small)}")
    if len(usable) < 2:
        found = f"only one class, {folder_names(usable)}" if usable else "no class with images"
        layout.refuse(
            f"{layout.root}: has {found}; a classifier needs at least two classes{layout.hint}"
        )
    return usable


def _check_sizes(layout: Layout, classes: ClassFiles, cut: str) -> None:
    """Refuse classes, all by name, that have too few images to cut a split."""
    least = SMALLEST_CLASS[cut]
    if small := [name for name, files in classes.items() if len(files) < least]:
        splits = "train and val" if cut == "val" else "train, val and test"
        layout.refuse(
            f"{layout.root}: too few images to split in {_counts(classes, small)}; every class"
            f" needs at least {least} ({splits}), so add images, or leave these classes out with"
            f" data.min_images={least}"
        )


def _match_classes(
    layout: Layout, split: str, found: ClassFiles, classes: ClassFiles
) -> ClassFiles:
    """Match the classes of a split with those of train; note missing and unknown ones."""
    notes, folded = layout.notes, {fold(name): name for name in classes}
    matched: ClassFiles = {name: [] for name in classes}
    unknown = []
    for name, files in found.items():
        to = name if name in classes else folded.get(fold(name))
        if to is not None:
            matched[to] = sorted([*matched[to], *files])
        elif files:
            unknown.append(name)
    if unknown:
        notes.append(
            f"left out of {split}: {_counts(found, unknown)}, which train lacks or leaves out"
        )
    missing = [name for name, files in matched.items() if not files]
    if len(missing) == len(classes):
        layout.refuse(
            f"{layout.root}: {split} has none of the classes of train ({folder_names(classes)}),"
            f" but {folder_names(found)}"
        )
    elif missing:
        notes.append(f"no {split} images of {folder_names(missing)}: not in the {split} metrics")
    return matched


def _note_groups(
    splits: Mapping[str, ClassFiles], groups: Mapping[Path, str], notes: list[str]
) -> None:
    """Note groups with images in two splits, and classes that whole groups keep out of a split."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split, classes in splits.items():
        for path in itertools.chain(*classes.values()):
            splits_of[groups[path]].add(split)
        if missing := [name for name, files in classes.items() if not files]:
            note = f"no {split} images of {folder_names(missing)}: not in the {split} metrics"
            if note not in notes:
                notes.append(note)
    if torn := sorted(group for group, found in splits_of.items() if len(found) > 1):
        notes.append(
            f"groups with images in two splits: {shorten(torn)}; results on val and test are too"
            " good"
        )


def fold(name: str) -> str:
    """Fold a class name for comparison: Unicode form, case, spaces."""
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFKC", name).casefold()))


def refusal(message: str) -> UsageError:
    """Build a one-line error, whatever characters the file names contain."""
    return UsageError(printable(message))


def folder_names(names: Iterable[str]) -> str:
    """List names of folders, the first few if there are many."""
    return shorten([f"{name}/" for name in names])


def shorten(names: Iterable[str]) -> str:
    """List names, the first five if there are more."""
    names = list(names)
    text = ", ".join(names[:5])
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"


def _counts(classes: ClassFiles, names: Iterable[str]) -> str:
    """List all of the classes with their numbers of images."""
    return ", ".join(f"{name} ({len(classes[name])})" for name in names)
