"""A dataset of image files, one folder per class.

Two layouts are read. `train/` and `val/` (also `valid/` or `validation/`), and `test/` if it is
there, each holding the class folders; or one level of class folders, split 60/20/20 by class.
Links are followed. Everything that lies directly in a class folder is listed, also what is no
photo: nothing is decoded here, and the cache names what it cannot read. Left out are only what
operating systems drop (hidden entries, Thumbs.db and the like) and loose files beside the split
and class folders, such as a README.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from flowertune.data.dataset import SPLITS, ImageDataset, Split
from flowertune.errors import UsageError, printable
from flowertune.seeding import derive_seed

SPLIT_OF_FOLDER = {name: name for name in SPLITS} | {"valid": "val", "validation": "val"}
# Windows' thumbnails and folder settings, macOS's half of a zip file, Synology's indexes.
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"})
SMALLEST_CLASS_TO_SPLIT = 3

ClassFiles = dict[str, list[Path]]  # class name -> its files, both in sorted order


def list_images(root: Path, *, seed: int) -> ImageDataset:
    """List the images below `root`; labels follow the sorted names of the class folders.

    One level of class folders is split for each class on its own: of n photos, n / 5 rounded to
    the nearest go to val and as many to test (never fewer than one), the rest to train. Which
    ones is drawn from (seed, "split", class, file name), so neither the file system's order nor
    the other classes matter, and a photo added later moves few others.

    Raises UsageError for a folder that is not there or whose layout cannot be understood, and where
    a class lacks photos in a split.
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
    """List every image below `root` with its class, for a model that is trained already.

    Its splits are what there is of train/, val/ and test/, or else "all" of the class folders. No
    class needs photos in each split, and one class will do.

    Raises UsageError for a folder that is not there, or has no photos in class folders.
    """
    root = root.expanduser().absolute()
    roots = _split_roots(root)
    splits: dict[str, ClassFiles] = {}
    for split, split_root in (roots or {"all": root}).items():
        listed = _list_class_files(split_root)
        splits[split] = {name: files for name, files in listed.items() if files}
        if not splits[split]:
            raise _error(f"{split_root} holds no class folders with photos")
    names = sorted({name for classes in splits.values() for name in classes})
    layout = f"folder {'/'.join(splits)}" if roots else "folder"
    return _dataset(root, layout, tuple(names), splits)


def _dataset(
    root: Path, layout: str, class_names: tuple[str, ...], splits: dict[str, ClassFiles]
) -> ImageDataset:
    """Label the files of each split by the place of their class in `class_names`."""
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
            f"{root} holds {_names(sorted(split_folders))} with class folders and also"
            f" {_names(others)}: keep the one or the other"
        )
    if others:  # a class may well be called "train", as long as it is a folder of photos
        return {}
    roots: dict[str, Path] = {}
    for name, path in split_folders.items():
        split = SPLIT_OF_FOLDER[name.lower()]
        if split in roots:
            raise _error(f"{root} holds both {roots[split].name}/ and {name}/: keep one of them")
        roots[split] = path
    return {split: roots[split] for split in SPLITS if split in roots}


def _read_splits(root: Path, roots: dict[str, Path]) -> dict[str, ClassFiles]:
    """Read train/, val/ and test/; each must hold every class of train/, and no other."""
    if "train" not in roots:
        names = _names(sorted(path.name for path in roots.values()))
        raise _error(
            f"{root} holds {names} and no train/: put the training photos into train/, one folder"
            " for each class"
        )
    if "val" not in roots:
        raise _error(
            f"{root} holds train/ and no val/ beside it: add val/ with the same class folders, or"
            f" give data.root={roots['train']} to have it split 60/20/20"
        )
    splits = {split: _list_classes(path) for split, path in roots.items()}
    for split, classes in splits.items():
        missing = splits["train"].keys() - classes.keys()
        if missing:
            raise _error(
                f"{roots[split]} lacks {_names(sorted(missing))}, known from train/: every split"
                " must hold photos of every class"
            )
        unknown = classes.keys() - splits["train"].keys()
        if unknown:
            raise _error(
                f"{roots[split]} holds {_names(sorted(unknown))}, unknown to train/: add the same"
                " class folders to train/, or remove them here"
            )
    return splits


def _split_classes(root: Path, classes: ClassFiles, seed: int) -> dict[str, ClassFiles]:
    small = [f"{n} ({len(f)})" for n, f in classes.items() if len(f) < SMALLEST_CLASS_TO_SPLIT]
    if small:
        raise _error(
            f"{root}: too few photos to split: {_join(small)}; every class needs at least"
            f" {SMALLEST_CLASS_TO_SPLIT} (train, val and test), so add photos or remove the class"
        )
    splits: dict[str, ClassFiles] = {split: {} for split in SPLITS}
    for name, files in classes.items():
        keys = {path: derive_seed(seed, f"split/{name}/{path.name}") for path in files}
        shuffled = sorted(files, key=keys.__getitem__)
        fifth = (len(files) + 2) // 5  # n / 5 to the nearest; 1 for the smallest class, 3 photos
        splits["val"][name] = sorted(shuffled[:fifth])
        splits["test"][name] = sorted(shuffled[fifth : 2 * fifth])
        splits["train"][name] = sorted(shuffled[2 * fifth :])
    return splits


def _list_classes(folder: Path) -> ClassFiles:
    """List the class folders of `folder` and their files: at least two classes, none empty."""
    classes = _list_class_files(folder)
    if not classes:
        raise _error(
            f"{folder} holds no class folders: put the photos into one folder for each class"
        )
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise _error(
            f"{folder}: no photos in {_names(empty)}: add photos there or remove the folder"
        )
    nested = [name for name, files in classes.items() if all(file.is_dir() for file in files)]
    if nested:
        raise _error(
            f"{folder}: {_names(nested)} holds folders and no files: photos must lie directly in"
            " their class folder"
        )
    if len(classes) == 1:
        raise _error(
            f"{folder} holds only one class, {_names(list(classes))}: a classifier needs at least"
            " two class folders"
        )
    return classes


def _list_class_files(folder: Path) -> ClassFiles:
    folders = _list_folders(folder).items()
    return {name: list(_list_entries(path).values()) for name, path in folders}


def _list_folders(folder: Path) -> dict[str, Path]:
    """List the folders in `folder`, linked ones too, by name and sorted."""
    entries = _list_entries(folder)
    broken = [n for n, path in entries.items() if path.is_symlink() and not os.path.exists(path)]
    if broken:
        raise _error(f"{folder}: {_join(broken)} links to nothing: mend or remove the link")
    return {name: path for name, path in entries.items() if os.path.isdir(path)}


def _list_entries(folder: Path) -> dict[str, Path]:
    """List the entries of `folder`, by name and sorted, without operating systems' own files."""
    try:
        entries = os.listdir(folder)
    except FileNotFoundError:
        raise _error(f"data.root: there is no folder {folder}") from None
    except NotADirectoryError:
        raise _error(f"data.root: {folder} is a file, not a folder of class folders") from None
    except OSError as error:
        raise _error(f"data.root: cannot list {folder}: {error.strerror}") from None
    names = sorted(name for name in entries if not is_system_file(name))
    for name in names:
        try:
            name.encode()  # results name classes and photos, in JSON and CSV, which are UTF-8
        except UnicodeEncodeError:
            raise _error(f"{folder}: the name {name!a} is not valid UTF-8: rename it") from None
    return {name: folder / name for name in names}


def is_system_file(name: str) -> bool:
    """Whether a folder's entry is hidden or a file that operating systems leave there."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _error(message: str) -> UsageError:
    """Build an error of one line, whatever files and folders are called."""
    return UsageError(printable(message))


def _names(folders: list[str]) -> str:
    return _join([f"{name}/" for name in folders])


def _join(names: list[str]) -> str:
    text = ", ".join(names[:5])
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"


def walk_files(folder: Path, on_error: Callable[[Path, str], None]) -> Iterator[Path]:
    """Yield every file below `folder`, a folder's own before those of its folders, by name.

    Links are followed, though into no folder twice. Left out is what operating systems drop
    (`is_system_file`); whether a file is an image is seen when it is decoded.
    `on_error(folder, reason)` is told of a folder that cannot be listed.
    """

    def tell(error: OSError) -> None:
        on_error(Path(error.filename), f"cannot be listed: {error.strerror or error}")

    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=tell, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_system_file(name))
        yield from (Path(parent, name) for name in sorted(names) if not is_system_file(name))
