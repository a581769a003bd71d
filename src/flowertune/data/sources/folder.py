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
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from flowertune.data.dataset import SPLITS, ImageDataset
from flowertune.data.sources.layout import (
    Layout,
    arrange,
    arrange_for_evaluation,
    fold,
    folder_names,
    refusal,
)
from flowertune.data.sources.walk import (
    is_image_name,
    is_own_folder,
    is_system_file,
    may_be_image,
    walk_files,
)
from flowertune.data.splits import ClassFiles
from flowertune.files import expand_user

# Words in the names of split folders, without what may follow as in "trainset" and "TestImages";
# "eval" is val unless another folder is.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainval", "tr", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("eval", "evaluation"), "eval"),
}
WORD_ENDING = re.compile(r"(sets?|data(sets?)?|images?|imgs?|split)$")
UNLABELED_WORDS = {"pred", "predict", "prediction", "unlabeled", "unlabelled", "inference"}
OUTER_FOLDERS = 3  # at most, around a dataset


def list_images(
    root: Path,
    *,
    seed: int,
    min_images: int | None = None,
    names: Path | None = None,
    group: str | None = None,
    problems: list[str] | None = None,
) -> ImageDataset:
    """List the images below `root` for training (`layout.arrange`).

    `group` is "folder", for the first folder below the class folder, or a regular expression that
    is searched in the path below it; its first group, or all that it matches, names the group.

    Raises UsageError if the folder does not exist or has no such layout, or like `arrange`.
    """
    layout = Layout(expand_user(root).absolute(), "folder", {}, problems=problems)
    bases = _read_layout(layout)
    if group is not None:
        layout.groups = _find_groups(layout, bases, group)
    return arrange(layout, seed=seed, min_images=min_images, names=names)


def list_evaluation_images(
    root: Path, *, names: Path | None = None, group: str | None = None
) -> ImageDataset:
    """List every image below `root` with its class, to evaluate a trained model.

    `group` has no effect. Raises UsageError if the folder does not exist, or like
    `arrange_for_evaluation`.
    """
    layout = Layout(expand_user(root).absolute(), "folder", {})
    _read_layout(layout)
    return arrange_for_evaluation(layout, names=names)


def _find_groups(layout: Layout, bases: Mapping[str, Path], group: str) -> dict[Path, str]:
    """Map each file to its group; without one, a file is a group of its own."""
    try:
        pattern = re.compile(r"([^/]+)/" if group == "folder" else group)
    except re.error as problem:
        raise refusal(f"data.group={group}: is not a regular expression: {problem}") from None
    groups, alone, below = {}, 0, ""
    for split, classes in layout.splits.items():
        for path in itertools.chain(*classes.values()):
            below = "/".join(path.relative_to(bases[split]).parts[1:])
            match = pattern.match(below) if group == "folder" else pattern.search(below)
            text = match and (match[1] if pattern.groups else match[0])
            groups[path] = text or path.relative_to(layout.root).as_posix()
            alone += not text
    if alone == len(groups):
        raise refusal(f"data.group={group}: found in no image, such as {below}")
    if alone:
        layout.notes.append(f"data.group={group}: not found in {alone:,} of {len(groups):,} images")
    return groups


def _read_layout(layout: Layout) -> dict[str, Path]:
    """Find the split folders or class folders, and list their files in `layout`.

    Returns the folder of each split, in which its class folders are.
    """
    root = layout.root
    _list_entries(root)  # raises if there is nothing to list
    folders = _list_folders(root, layout)
    base = _unwrap(root, _has_splits)
    folders = folders if base == root else _list_folders(base)
    roots, others = _split_roots(base, folders, layout)
    if tables := [name for name in _list_files(root) if name.lower().endswith((".csv", ".tsv"))]:
        layout.hint = (
            f"; if {tables[0]} has the labels, use data=table data.path={root / tables[0]}"
        )
    if base != root:
        layout.notes.append(
            f"reading {base.relative_to(root)}/, the only folder with images in {root}"
        )
    if not roots:
        layout.splits["all"] = _list_class_files(base, folders, (root,), layout)
        if not layout.splits["all"]:
            layout.refuse(
                f"{base}: has no class folders; put the images into one folder per class"
                f"{layout.hint}"
            )
        return {"all": base}
    for split, outer in roots.items():
        known = set(map(fold, layout.splits.get("train", ())))
        folder = roots[split] = _unwrap(outer, partial(_any_class_of, known))
        classes = _list_folders(folder, layout)
        if split != "train" and (reason := _why_left_out(split, folder, classes, known)):
            layout.notes.append(f"left out {outer.name}/: {reason}")
            continue
        if not classes:
            layout.refuse(
                f"{folder}: has no class folders; put the images into one folder per class"
            )
        layout.splits[split] = _list_class_files(folder, classes, (root, folder), layout)
    if not layout.splits:
        layout.refuse(
            f"{base}: has no class folders with images; put the images into one folder per class"
        )
    if others:
        layout.notes.append(f"left out {folder_names(others)}: not a split")
    return roots


def _why_left_out(
    split: str, folder: Path, classes: Iterable[str], known: Collection[str]
) -> str | None:
    """Say why val or test cannot be measured on, given the classes of train if there is one."""
    classes = list(classes)
    if not _has_images(folder):
        return "no images"
    if not classes:
        return "its images have no labels (no class folders); classify them with flowertune predict"
    if split == "test" and len(classes) == 1 and known and not _any_class_of(known, classes):
        return (
            f"its only folder {classes[0]}/ is not a class of train; classify images without labels"
            " with flowertune predict"
        )
    return None


def _any_class_of(known: Collection[str], names: Iterable[str]) -> bool:
    return any(fold(name) in known for name in names)


def _has_splits(folders: Mapping[str, Path]) -> bool:
    """Whether folders are named like splits, unless it is one around others: flowers-test/train."""
    inner = [_list_folders(path) for path in folders.values()] if len(folders) == 1 else []
    if inner and inner[0] and all(map(split_of, inner[0])):
        return False
    return any(map(split_of, folders))


def _unwrap(folder: Path, is_inside: Callable[[Mapping[str, Path]], bool]) -> Path:
    """Enter folders as archives have them around a dataset, down to class folders.

    Such a folder is the only one, or the only one with images beside others with files. Stops where
    `is_inside` is true of the folders.
    """
    for _ in range(OUTER_FOLDERS):
        folders = list((named := _list_folders(folder)).values())
        if is_inside(named):
            break
        if len(folders) > 1:
            with_images = list(itertools.islice(filter(_has_images, folders), 2))
            if len(with_images) != 1 or not all(map(_has_files, folders)):
                break
            folders = with_images
        if not folders:
            break
        deeper = list(_list_folders(folders[0]).values())
        is_class = any(map(may_be_image, _list_files(folders[0])))
        if is_class or not deeper or (len(deeper) == 1 and not _list_folders(deeper[0])):
            break
        folder = folders[0]
    return folder


def split_of(name: str) -> str | None:
    """Return the split that a folder's name says: train, val, test or eval; None for none."""
    words = [WORD_ENDING.sub("", word) for word in re.split(r"[^a-z]+", name.lower())]
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def _split_roots(
    base: Path, folders: Mapping[str, Path], layout: Layout
) -> tuple[dict[str, Path], list[str]]:
    """Map each split to its folder, in the order of SPLITS, and list the other folders.

    Both are empty without split folders: a class may be called "train" if its folder holds files.
    """
    named: dict[str, list[Path]] = {}
    for name, path in folders.items():
        if split := split_of(name):
            named.setdefault(split, []).append(path)
    roots: dict[str, Path] = {}
    for split, paths in named.items():
        usable = list(filter(_list_folders, paths)) if len(paths) > 1 else paths
        if len(usable) > 1:
            layout.refuse(
                f"{base}: has both {usable[0].name}/ and {usable[1].name}/ for {split}; keep one of"
                " them"
            )
        if usable:
            roots[split] = usable[0]
    others = [name for name, path in folders.items() if path not in roots.values()]
    unlabeled = [name for name in others if UNLABELED_WORDS & set(re.split(r"\W|_", name.lower()))]
    in_others = [name for name in others if name not in unlabeled and _has_images(folders[name])]
    with_classes = [path.name for path in roots.values() if _list_folders(path)]
    if in_others:
        if with_classes and "train" in roots and _list_folders(roots["train"]):
            layout.refuse(
                f"{base}: has {folder_names(with_classes)} with class folders, but also"
                f" {folder_names(in_others)}; keep only the split folders or only class folders"
            )
        else:
            for name in in_others:  # learn/ beside test/: not two classes
                inside = set(map(fold, _list_folders(folders[name])))
                for root in roots.values():
                    if len(inside & set(map(fold, _list_folders(root)))) > 1:
                        layout.refuse(
                            f"{base}: {name}/ and {root.name}/ have the same class folders; rename"
                            f" {name}/ to train/, val/ or test/"
                        )
            return {}, []
    if roots and not with_classes and len(roots) == len(folders) and "train" in roots:
        return roots, []  # refused: images without class folders
    if not with_classes:
        return {}, []
    if "eval" in roots:
        free = next((split for split in ("val", "test") if split not in roots), None)
        if free is None:
            layout.refuse(f"{base}: has val, test and {roots['eval'].name}/; remove one of them")
        else:
            roots[free] = roots.pop("eval")
    return {split: roots[split] for split in SPLITS if split in roots}, others


def _list_class_files(
    base: Path, folders: Mapping[str, Path], never: Iterable[Path], layout: Layout
) -> ClassFiles:
    """List the files of each class folder, at any depth, by the class name in Unicode form NFC."""
    classes: ClassFiles = {}
    below: Counter[str] = Counter()  # folders between class folders and images

    def refuse(folder: Path, reason: str) -> None:
        layout.refuse(f"data.root: {folder} {reason}")

    for name, folder in folders.items():
        files = classes.setdefault(unicodedata.normalize("NFC", name), [])
        for path in walk_files(folder, refuse, (*never, base)):
            if may_be_image(path):
                if not _is_text(path, layout):
                    continue
                files.append(path)
                below.update(path.relative_to(folder).parts[:-1][:1])
            else:
                layout.others[path.suffix.lower()] += 1
    if loose := sum(map(is_image_name, _list_files(base))):
        layout.notes.append(f"left out images in no class folder, in {base}: {loose:,}")
    if below:
        layout.notes.append(
            f"classes are the folders in {base}; folders below them ({folder_names(below)}) are not"
        )
    return dict(sorted(classes.items()))


def _has_images(folder: Path) -> bool:
    return any(map(may_be_image, walk_files(folder, lambda folder, reason: None)))


def _has_files(folder: Path) -> bool:
    return next(walk_files(folder, lambda folder, reason: None), None) is not None


def _list_files(folder: Path) -> list[str]:
    return [name for name in _list_entries(folder) if not (folder / name).is_dir()]


def _list_folders(folder: Path, layout: Layout | None = None) -> dict[str, Path]:
    """List the folders in `folder`, including links to folders, by name and sorted.

    `layout` gets the problems; without it they are ignored, as somebody else reports them.
    """
    folders = {}
    for name in _list_entries(folder):
        path = folder / name
        if layout is not None and path.is_symlink() and not path.exists():
            layout.refuse(f"{folder}: broken link {name}; remove it or restore its target")
        if layout is not None and not _is_text(path, layout):
            continue
        if path.is_dir() and not is_own_folder(path):
            folders[name] = path
    return folders


def _list_entries(folder: Path) -> list[str]:
    """List the names in `folder`, sorted, without the operating system's own."""
    try:
        entries = os.listdir(folder)
    except FileNotFoundError:
        raise refusal(f"data.root: {folder} does not exist") from None
    except NotADirectoryError:
        raise refusal(f"data.root: {folder} is a file, not a folder of class folders") from None
    except OSError as error:
        raise refusal(f"data.root: cannot list {folder}: {error.strerror}") from None
    return sorted(name for name in entries if not is_system_file(name))


def _is_text(path: Path, layout: Layout) -> bool:
    """Whether a name can be written to JSON and CSV, which are UTF-8; refuses it otherwise."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        layout.refuse(f"{path.parent}: the name {path.name!a} is not valid UTF-8; rename it")
        return False
    return True
