"""A dataset of image files, one folder per class.

Two layouts are read: split folders (`train/`, `val/`, `test/` or other usual names) with class
folders inside, or class folders alone, split 60/20/20 per class. Either may lie in a single outer
folder, as in archives. Images may lie at any depth below their class folder. Links are followed.
Nothing is decoded here: the cache reports unreadable images. The notes say what is left out.
"""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowertune.data.dataset import SPLITS, ImageDataset, Split
from flowertune.data.sources.class_names import rename_classes
from flowertune.data.sources.walk import is_own_folder, is_system_file, walk_files
from flowertune.data.splits import ClassFiles, split_classes
from flowertune.errors import UsageError, printable

# Words in the names of split folders; "eval" is val unless another folder is.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "traindata", "tr", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "valset", "dev", "devset"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "testdata", "tst"), "test"),
    **dict.fromkeys(("eval", "evaluation", "evalset"), "eval"),
}
UNLABELED_WORDS = {"pred", "predict", "prediction", "unlabeled", "unlabelled", "inference"}
# Files that lie beside images: videos and edits of phones, notes, tables, annotations, archives.
OTHER_FILES = re.compile(
    r"\.(mov|mp4|m4v|avi|3gp|aae|xmp|thm|txt|md|rst|html?|pdf|docx?|csv|tsv|xlsx?|json|jsonl|xml"
    r"|ya?ml|toml|ini|log|db|py|ipynb|npy|npz|mat|pkl|pt|pth|zip|tar|gz|tgz|7z|rar|sha\d+|md5)",
    re.IGNORECASE,
)
OUTER_FOLDERS = 3  # at most, around a dataset
SMALLEST_CLASS = {"val": 2, "test": 3}  # images that a class needs if these splits are cut


@dataclass
class Layout:
    """Files by split and class as found on disk; the split is "all" without split folders."""

    splits: dict[str, ClassFiles]
    notes: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # endings of files that are no images


def list_images(
    root: Path, *, seed: int, min_images: int | None = None, names: Path | None = None
) -> ImageDataset:
    """List the images below `root`; labels follow the sorted names of the class folders.

    With class folders alone, each class is split separately: of n images, n / 5 (rounded, at least
    one) go to val, as many to test and the rest to train. With train/ but no val/, val is cut from
    train in the same way. The choice depends only on (seed, "split", class, file name), not on
    other classes or the order in the file system, and an image added later moves few others.

    Classes with fewer than `min_images` images (in train/, if there is one) are left out. `names`
    is a file with names for the class folders (`rename_classes`).

    Raises UsageError if the folder does not exist, has no such layout or only one class, or if a
    class has too few images for the splits that have to be cut.
    """
    root = root.expanduser().absolute()
    layout = _read_layout(root)
    splits, notes = layout.splits, layout.notes
    given = "train" if "train" in splits else "all"
    if given not in splits:
        raise _error(
            f"{root}: has {_names(splits)} but no train/; put the training images into train/, one"
            " folder per class"
        )
    classes = _usable_classes(root, splits[given], min_images, notes)
    text = f"folder {'/'.join(splits)}"
    if given == "all":
        _check_sizes(root, classes, "test")
        text = f"folder split 60/20/20 by data.seed={seed}"
        found = split_classes(classes, SPLITS, seed)
    else:
        found = {name: _match_classes(root, name, splits[name], classes, notes) for name in splits}
        if "val" not in found:
            _check_sizes(root, classes, "val")
            text += f", val cut from train by data.seed={seed}"
            found = split_classes(classes, ("train", "val"), seed) | {
                name: each for name, each in found.items() if name != "train"
            }
    if left_out := len(splits[given]) - len(classes):
        text += f", without {left_out} classes"
        if min_images is not None:
            text += f" (data.min_images={min_images})"
    return _dataset(root, text, classes, found, layout, names)


def list_evaluation_images(root: Path, *, names: Path | None = None) -> ImageDataset:
    """List every image below `root` with its class, to evaluate a trained model.

    The splits are the existing ones of train/, val/ and test/, or "all" if there are only class
    folders. A class may lack images in a split, and one class is enough.

    Raises UsageError if the folder does not exist or has no images in class folders.
    """
    root = root.expanduser().absolute()
    layout = _read_layout(root)
    for split, classes in layout.splits.items():
        layout.splits[split] = {name: files for name, files in classes.items() if files}
        if not layout.splits[split]:
            place = root if split == "all" else root / split
            raise _error(
                f"{place}: has no class folders with images; put the images into one folder per"
                " class"
            )
    class_names = sorted({name for classes in layout.splits.values() for name in classes})
    text = "folder" if "all" in layout.splits else f"folder {'/'.join(layout.splits)}"
    return _dataset(root, text, class_names, layout.splits, layout, names)


def _dataset(
    root: Path,
    text: str,
    class_names: Iterable[str],
    splits: Mapping[str, ClassFiles],
    layout: Layout,
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
        endings = ", ".join(f"{ending} {n:,}" for ending, n in sorted(layout.others.items()))
        layout.notes.append(f"left out files that are not images: {endings}")
    if names is not None:
        class_names = rename_classes(class_names, names)
    notes = tuple(map(printable, layout.notes))
    return ImageDataset(root, f"{text}: {sizes}", class_names, None, labeled, notes)


def _read_layout(root: Path) -> Layout:
    """Find the split folders or class folders below `root`, and list their files."""
    folders = _list_folders(root)
    base = root if all(map(split_of, folders)) else _unwrap(root)
    folders = folders if base == root else _list_folders(base)
    roots, others = _split_roots(base, folders)
    layout = Layout({})
    if base != root:
        layout.notes.append(f"reading {base.relative_to(root)}/, the only folder in {root}")
    if not roots:
        layout.splits["all"] = _list_class_files(base, folders, (root,), layout)
        if not layout.splits["all"]:
            raise _error(f"{base}: has no class folders; put the images into one folder per class")
        return layout
    for split, folder in roots.items():
        classes = _list_folders(folder := _unwrap(folder))
        if not classes and split != "train" and any(map(_may_be_image, _list_entries(folder))):
            layout.notes.append(
                f"left out {folder.name}/: its images have no labels (no class folders); classify"
                " them with flowertune predict"
            )
            continue
        if not classes:
            raise _error(
                f"{folder}: has no class folders; put the images into one folder per class"
            )
        layout.splits[split] = _list_class_files(folder, classes, (root, folder), layout)
    if others:
        layout.notes.append(f"left out {_names(others)}: not a split")
    return layout


def _unwrap(folder: Path) -> Path:
    """Enter folders that hold nothing but one folder, as archives have, down to class folders."""
    for _ in range(OUTER_FOLDERS):
        inner = list(_list_folders(folder).values())
        if len(inner) != 1:
            break
        deeper = list(_list_folders(inner[0]).values())
        is_class = any(map(_may_be_image, _list_files(inner[0])))
        if is_class or not deeper or (len(deeper) == 1 and not _list_folders(deeper[0])):
            break
        folder = inner[0]
    return folder


def split_of(name: str) -> str | None:
    """Return the split that a folder's name says: train, val, test or eval; None for none."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def _split_roots(base: Path, folders: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """Map each split to its folder, in the order of SPLITS, and list the other folders.

    Both are empty without split folders: a class may be called "train" if its folder holds files.
    """
    roots: dict[str, Path] = {}
    for name, path in folders.items():
        split = split_of(name)
        if split is None:
            continue
        if split in roots:
            raise _error(
                f"{base}: has both {roots[split].name}/ and {name}/ for {split}; keep one of them"
            )
        roots[split] = path
    others = [name for name, path in folders.items() if path not in roots.values()]
    unlabeled = [name for name in others if UNLABELED_WORDS & set(re.split(r"\W|_", name.lower()))]
    in_others = [name for name in others if name not in unlabeled and _has_images(folders[name])]
    with_classes = [path.name for path in roots.values() if _list_folders(path)]
    if in_others:
        if with_classes and "train" in roots and _list_folders(roots["train"]):
            raise _error(
                f"{base}: has {_names(with_classes)} with class folders, but also"
                f" {_names(in_others)}; keep only the split folders or only class folders"
            )
        return {}, []
    if roots and not with_classes and len(roots) == len(folders) and "train" in roots:
        return roots, []  # refused: images without class folders
    if not with_classes:
        return {}, []
    if "eval" in roots:
        free = next((split for split in ("val", "test") if split not in roots), None)
        if free is None:
            raise _error(f"{base}: has val, test and {roots['eval'].name}/; remove one of them")
        roots[free] = roots.pop("eval")
    return {split: roots[split] for split in SPLITS if split in roots}, others


def _usable_classes(
    root: Path, classes: ClassFiles, min_images: int | None, notes: list[str]
) -> ClassFiles:
    """Leave out classes without images or with fewer than `min_images`; two must remain."""
    if empty := [name for name, files in classes.items() if not files]:
        notes.append(f"left out {_names(empty)}: no images")
    usable = {name: files for name, files in classes.items() if len(files) >= (min_images or 1)}
    if small := [name for name in classes if name not in usable and name not in empty]:
        notes.append(f"left out by data.min_images={min_images}: {_counts(classes, small)}")
    if len(usable) < 2:
        found = f"only one class, {_names(usable)}" if usable else "no class with images"
        raise _error(f"{root}: has {found}; a classifier needs at least two class folders")
    return usable


def _check_sizes(root: Path, classes: ClassFiles, cut: str) -> None:
    """Raise UsageError, with all class names, if a class has too few images to cut a split."""
    least = SMALLEST_CLASS[cut]
    if small := [name for name, files in classes.items() if len(files) < least]:
        splits = "train and val" if cut == "val" else "train, val and test"
        raise _error(
            f"{root}: too few images to split in {_counts(classes, small)}; every class needs at"
            f" least {least} ({splits}), so add images, or leave these classes out with"
            f" data.min_images={least}"
        )


def _match_classes(
    root: Path, split: str, found: ClassFiles, classes: ClassFiles, notes: list[str]
) -> ClassFiles:
    """Match a split's class folders with those of train; note missing and unknown ones."""
    folded = {fold(name): name for name in classes}
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
        raise _error(
            f"{root}: {split} has none of the classes of train ({_names(classes)}), but"
            f" {_names(found)}"
        )
    if missing:
        notes.append(f"no {split} images of {_names(missing)}: not in the {split} metrics")
    return matched


def fold(name: str) -> str:
    """Fold a class name for comparison: Unicode form, case, spaces."""
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFKC", name).casefold()))


def _list_class_files(
    base: Path, folders: Mapping[str, Path], never: Iterable[Path], layout: Layout
) -> ClassFiles:
    """List the files of each class folder, at any depth, by the class name in Unicode form NFC."""
    classes: ClassFiles = {}
    below: Counter[str] = Counter()  # folders between class folders and images

    def refuse(folder: Path, reason: str) -> None:
        raise _error(f"data.root: {folder} {reason}")

    for name, folder in folders.items():
        files = classes.setdefault(unicodedata.normalize("NFC", name), [])
        for path in walk_files(folder, refuse, (*never, base)):
            if _may_be_image(path):
                _check_name(path.parent, path.name)
                files.append(path)
                below.update(path.relative_to(folder).parts[:-1][:1])
            else:
                layout.others[path.suffix.lower()] += 1
    if below:
        layout.notes.append(
            f"classes are the folders in {base}; the folders below them ({_names(below)}) are not"
        )
    return dict(sorted(classes.items()))


def _may_be_image(path: str | Path) -> bool:
    return OTHER_FILES.fullmatch(Path(path).suffix) is None


def _has_images(folder: Path) -> bool:
    files = walk_files(folder, lambda folder, reason: None)
    return any(map(_may_be_image, itertools.islice(files, 100)))


def _list_files(folder: Path) -> list[str]:
    return [name for name in _list_entries(folder) if not (folder / name).is_dir()]


def _list_folders(folder: Path) -> dict[str, Path]:
    """List the folders in `folder`, including links to folders, by name and sorted."""
    folders = {}
    for name in _list_entries(folder):
        path = folder / name
        if path.is_symlink() and not path.exists():
            raise _error(f"{folder}: broken link {name}; remove it or restore its target")
        if path.is_dir() and not is_own_folder(path):
            folders[name] = path
    return folders


def _list_entries(folder: Path) -> list[str]:
    """List the names in `folder`, sorted, without the operating system's own."""
    try:
        entries = os.listdir(folder)
    except FileNotFoundError:
        raise _error(f"data.root: {folder} does not exist") from None
    except NotADirectoryError:
        raise _error(f"data.root: {folder} is a file, not a folder of class folders") from None
    except OSError as error:
        raise _error(f"data.root: cannot list {folder}: {error.strerror}") from None
    names = sorted(name for name in entries if not is_system_file(name))
    for name in names:
        _check_name(folder, name)
    return names


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()  # names of classes and images go into JSON and CSV, which are UTF-8
    except UnicodeEncodeError:
        raise _error(f"{folder}: the name {name!a} is not valid UTF-8; rename it") from None


def _error(message: str) -> UsageError:
    """Build a one-line error, whatever characters the file names contain."""
    return UsageError(printable(message))


def _names(folders: Iterable[str]) -> str:
    names = [f"{name}/" for name in folders]
    text = ", ".join(names[:5])
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"


def _counts(classes: ClassFiles, names: Iterable[str]) -> str:
    """List all of the classes with their numbers of images."""
    return ", ".join(f"{name} ({len(classes[name])})" for name in names)
