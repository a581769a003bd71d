"""A dataset of image files, one folder per class.

Two layouts are supported: `train/`, `val/` (or `valid/`, `validation/`) and optionally `test/`,
each with the class folders inside; or one level of class folders, split 60/20/20 per class. Links
are followed. Every file directly in a class folder is listed, image or not: nothing is decoded
here, and the cache reports unreadable images. Skipped are only the operating system's own files
(hidden entries, Thumbs.db and the like) and loose files next to the split and class folders, such
as a README.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from flowertune.data.dataset import SPLITS, ImageDataset, Split
from flowertune.data.splits import ClassFiles, split_classes
from flowertune.errors import UsageError, printable

SPLIT_OF_FOLDER = {name: name for name in SPLITS} | {"valid": "val", "validation": "val"}
# Windows thumbnails and folder settings, macOS metadata in zip files, Synology indexes.
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"})
SMALLEST_CLASS_TO_SPLIT = 3


def list_images(root: Path, *, seed: int) -> ImageDataset:
    """List the images below `root`; labels follow the sorted names of the class folders.

    With one level of class folders, each class is split separately: of n images, n / 5 (rounded, at
    least one) go to val, as many to test and the rest to train. The choice depends only on (seed,
    "split", class, file name), not on other classes or the order in the file system, and an image
    added later moves few others.

    Raises UsageError if the folder does not exist, its layout is not one of the two, or a class has
    no images in a split.
    """
    root = root.expanduser().absolute()
    roots = _split_roots(root)
    if roots:
        splits = _read_splits(root, roots)
        layout = f"folder {'/'.join(splits)}"
    else:
        splits = _split_classes(root, _list_classes(root), seed)
        layout = f"folder split 60/20/20 by data.seed={seed}"
    return _dataset(root, layout, tuple(splits["train"]), splits)


def list_evaluation_images(root: Path) -> ImageDataset:
    """List every image below `root` with its class, to evaluate a trained model.

    The splits are the existing ones of train/, val/ and test/, or "all" if there are only class
    folders. A class may lack images in a split, and one class is enough.

    Raises UsageError if the folder does not exist or has no images in class folders.
    """
    root = root.expanduser().absolute()
    roots = _split_roots(root)
    splits: dict[str, ClassFiles] = {}
    for split, split_root in (roots or {"all": root}).items():
        listed = _list_class_files(split_root)
        splits[split] = {name: files for name, files in listed.items() if files}
        if not splits[split]:
            raise _error(
                f"{split_root}: has no class folders with images; put the images into one folder"
                " per class"
            )
    names = sorted({name for classes in splits.values() for name in classes})
    layout = f"folder {'/'.join(splits)}" if roots else "folder"
    return _dataset(root, layout, tuple(names), splits)


def _dataset(
    root: Path, layout: str, class_names: tuple[str, ...], splits: dict[str, ClassFiles]
) -> ImageDataset:
    """Label the files of each split with the index of their class in `class_names`."""
    labeled = {}
    for split, classes in splits.items():
        files = [classes.get(name, []) for name in class_names]
        labels = (label for label, paths in enumerate(files) for _ in paths)
        labeled[split] = Split(tuple(itertools.chain(*files)), tuple(labels))
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in labeled.items())
    return ImageDataset(root, f"{layout}: {sizes}", class_names, None, labeled)


def _split_roots(root: Path) -> dict[str, Path]:
    """Map each split to its folder, in the order of SPLITS; empty without split folders."""
    folders = _list_folders(root)
    split_folders = {
        name: path for name, path in folders.items() if name.lower() in SPLIT_OF_FOLDER
    }
    others = sorted(folders.keys() - split_folders.keys())
    if others and any(map(_list_folders, split_folders.values())):
        raise _error(
            f"{root}: has {_names(sorted(split_folders))} with class folders, but also"
            f" {_names(others)}; keep only the split folders or only class folders"
        )
    if others:  # a class may be called "train" if its folder holds files
        return {}
    roots: dict[str, Path] = {}
    for name, path in split_folders.items():
        split = SPLIT_OF_FOLDER[name.lower()]
        if split in roots:
            raise _error(f"{root}: has both {roots[split].name}/ and {name}/; keep one of them")
        roots[split] = path
    return {split: roots[split] for split in SPLITS if split in roots}


def _read_splits(root: Path, roots: dict[str, Path]) -> dict[str, ClassFiles]:
    """Read train/, val/ and test/; each must have exactly the classes of train/."""
    if "train" not in roots:
        names = _names(sorted(path.name for path in roots.values()))
        raise _error(
            f"{root}: has {names} but no train/; put the training images into train/, one folder"
            " per class"
        )
    if "val" not in roots:
        raise _error(
            f"{root}: has train/ but no val/; add val/ with the same class folders, or use"
            f" data.root={roots['train']} to split it 60/20/20"
        )
    splits = {split: _list_classes(path) for split, path in roots.items()}
    for split, classes in splits.items():
        missing = splits["train"].keys() - classes.keys()
        if missing:
            raise _error(
                f"{roots[split]}: lacks {_names(sorted(missing))}, which train/ has; every split"
                " needs images of every class"
            )
        unknown = classes.keys() - splits["train"].keys()
        if unknown:
            raise _error(
                f"{roots[split]}: has {_names(sorted(unknown))}, which train/ lacks; add the same"
                " class folders to train/, or remove them here"
            )
    return splits


def _split_classes(root: Path, classes: ClassFiles, seed: int) -> dict[str, ClassFiles]:
    small = [f"{n} ({len(f)})" for n, f in classes.items() if len(f) < SMALLEST_CLASS_TO_SPLIT]
    if small:
        raise _error(
            f"{root}: too few images to split in {_join(small)}; every class needs at least"
            f" {SMALLEST_CLASS_TO_SPLIT} (train, val and test), so add images or remove the class"
        )
    return split_classes(classes, SPLITS, seed)


def _list_classes(folder: Path) -> ClassFiles:
    """List the class folders of `folder` and their files: at least two classes, none empty."""
    classes = _list_class_files(folder)
    if not classes:
        raise _error(f"{folder}: has no class folders; put the images into one folder per class")
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise _error(
            f"{folder}: no images in {_names(empty)}; add images there or remove the folder"
        )
    nested = [name for name, files in classes.items() if all(file.is_dir() for file in files)]
    if nested:
        raise _error(
            f"{folder}: only folders in {_names(nested)}; put the images directly into their class"
            " folder"
        )
    if len(classes) == 1:
        raise _error(
            f"{folder}: has only one class, {_names(list(classes))}; a classifier needs at least"
            " two class folders"
        )
    return classes


def _list_class_files(folder: Path) -> ClassFiles:
    folders = _list_folders(folder).items()
    return {name: list(_list_entries(path).values()) for name, path in folders}


def _list_folders(folder: Path) -> dict[str, Path]:
    """List the folders in `folder`, including links to folders, by name and sorted."""
    entries = _list_entries(folder)
    broken = [n for n, path in entries.items() if path.is_symlink() and not os.path.exists(path)]
    if broken:
        raise _error(f"{folder}: broken link {_join(broken)}; repair or remove it")
    return {name: path for name, path in entries.items() if os.path.isdir(path)}


def _list_entries(folder: Path) -> dict[str, Path]:
    """List the entries of `folder`, by name and sorted, without the operating system's own."""
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
        try:
            name.encode()  # names of classes and images go into JSON and CSV, which are UTF-8
        except UnicodeEncodeError:
            raise _error(f"{folder}: the name {name!a} is not valid UTF-8; rename it") from None
    return {name: folder / name for name in names}


def is_system_file(name: str) -> bool:
    """Whether an entry of a folder is hidden or created by the operating system."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _error(message: str) -> UsageError:
    """Build a one-line error, whatever characters the file names contain."""
    return UsageError(printable(message))


def _names(folders: list[str]) -> str:
    return _join([f"{name}/" for name in folders])


def _join(names: list[str]) -> str:
    text = ", ".join(names[:5])
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"


def walk_files(folder: Path, on_error: Callable[[Path, str], None]) -> Iterator[Path]:
    """Yield every file below `folder` by name, a folder's own files before its subfolders'.

    Follows links, but enters no folder twice. Skips the operating system's files
    (`is_system_file`); whether a file is an image shows only when it is decoded. Calls
    `on_error(folder, reason)` for a folder that cannot be listed.
    """

    def tell(error: OSError) -> None:
        on_error(Path(error.filename or folder), f"cannot be listed: {error.strerror or error}")

    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=tell, followlinks=True):
        try:
            status = os.stat(parent)
        except OSError as error:
            tell(error)
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_system_file(name))
        yield from (Path(parent, name) for name in sorted(names) if not is_system_file(name))
