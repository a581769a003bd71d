"""A person's own photos: one folder for each class.

Two layouts are read. `train/` and `val/` (also `valid/` or `validation/`), and `test/` if it is
there, each holding the class folders; or one level of class folders, split 60/20/20 by class.
Links are followed. Everything that lies directly in a class folder is listed, also what is no
photo: nothing is decoded here, and the cache names what it cannot read. Left out are only what
operating systems drop (hidden entries, Thumbs.db and the like) and loose files beside the split
and class folders, such as a README.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from flowertune.data.dataset import SPLITS, ImageDataset, Split
from flowertune.errors import UsageError, printable
from flowertune.seeding import derive_seed

SPLIT_OF_FOLDER = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
# Windows' thumbnails and folder settings, macOS's half of a zip file, Synology's indexes.
DROPPED_BY_SYSTEMS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"})
SMALLEST_CLASS_TO_SPLIT = 3

ClassFiles = dict[str, list[Path]]  # class name -> its files, both in sorted order


def list_images(root: Path, *, seed: int) -> ImageDataset:
    """List the photos below `root`; labels follow the sorted names of the class folders.

    One level of class folders is split for each class on its own: of n photos, n / 5 rounded to
    the nearest go to val and as many to test (never fewer than one), the rest to train. Which
    ones is drawn from (seed, "split", class, file name), so neither the file system's order nor
    the other classes matter, and a photo added later moves few others.

    Raises UsageError for a folder that is not there or whose layout cannot be understood, and where
    a class lacks photos in a split.
    """
    root = root.expanduser().absolute()
    split_folders = _split_folders(root)
    if split_folders:
        splits = _read_splits(root, split_folders)
        by = f"folder {'/'.join(splits)}"
    else:
        splits = _split_classes(root, _classes(root), seed)
        by = f"folder split 60/20/20 by data.seed={seed}"
    sizes = {split: sum(map(len, classes.values())) for split, classes in splits.items()}
    return ImageDataset(
        name=os.path.basename(os.path.abspath(root)),
        root=root,
        protocol=f"{by}: {', '.join(f'{split} {size:,}' for split, size in sizes.items())}",
        class_names=tuple(splits["train"]),
        descriptions=None,
        splits={split: _numbered(classes) for split, classes in splits.items()},
    )


def as_found(root: Path) -> ImageDataset:
    """Every photo below `root` with its class, for a model that is trained already.

    Its splits are what there is of train/, val/ and test/, or else "all" of the class folders. No
    class needs photos in each split, and one class will do.

    Raises UsageError for a folder that is not there, or has no photos in class folders.
    """
    root = root.expanduser().absolute()
    split_folders = _split_folders(root)
    places = _by_split(root, split_folders) if split_folders else {"all": root}
    found: dict[str, ClassFiles] = {}
    for split, place in places.items():
        listed = {name: list(_entries(path).values()) for name, path in _folders(place).items()}
        found[split] = {name: files for name, files in listed.items() if files}
        if not found[split]:
            raise _refusal(f"{place} holds no class folders with photos")
    names = sorted({name for classes in found.values() for name in classes})
    splits = {
        split: _numbered({name: classes.get(name, []) for name in names})
        for split, classes in found.items()
    }
    by = f"folder {'/'.join(splits)}" if split_folders else "folder"
    sizes = ", ".join(f"{split} {len(each):,}" for split, each in splits.items())
    return ImageDataset(root.name, root, f"{by}: {sizes}", tuple(names), None, splits)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of `root` that are splits of class folders, by name; empty where none is."""
    folders = _folders(root)
    split_folders = {
        name: path for name, path in folders.items() if name.lower() in SPLIT_OF_FOLDER
    }
    others = sorted(folders.keys() - split_folders.keys())
    holds_folders = {name: bool(_folders(path)) for name, path in split_folders.items()}
    if others and any(holds_folders.values()):
        raise _refusal(
            f"{root} holds {_names(sorted(split_folders))} with class folders and also"
            f" {_names(others)}: keep the one or the other"
        )
    # a class may well be called "train", as long as it is a folder of photos
    return {} if others else split_folders


def _by_split(root: Path, split_folders: dict[str, Path]) -> dict[str, Path]:
    """The same by split, in their order."""
    place: dict[str, Path] = {}
    for name, path in split_folders.items():
        split = SPLIT_OF_FOLDER[name.lower()]
        if split in place:
            raise _refusal(f"{root} holds both {place[split].name}/ and {name}/: keep one of them")
        place[split] = path
    return {split: place[split] for split in SPLITS if split in place}


def _read_splits(root: Path, split_folders: dict[str, Path]) -> dict[str, ClassFiles]:
    """What train/, val/ and test/ hold; each must hold every class of train/, and no other."""
    place = _by_split(root, split_folders)
    if "train" not in place:
        raise _refusal(
            f"{root} holds {_names(sorted(split_folders))} and no train/: put the training photos"
            " into train/, one folder for each class"
        )
    if "val" not in place:
        raise _refusal(
            f"{root} holds train/ and no val/ beside it: add val/ with the same class folders, or"
            f" give data.root={place['train']} to have it split 60/20/20"
        )
    splits = {split: _classes(path) for split, path in place.items()}
    for split, classes in splits.items():
        missing = splits["train"].keys() - classes.keys()
        if missing:
            raise _refusal(
                f"{place[split]} lacks {_names(sorted(missing))}, known from train/: every split"
                " must hold photos of every class"
            )
        unknown = classes.keys() - splits["train"].keys()
        if unknown:
            raise _refusal(
                f"{place[split]} holds {_names(sorted(unknown))}, unknown to train/: add the same"
                " class folders to train/, or remove them here"
            )
    return splits


def _split_classes(root: Path, classes: ClassFiles, seed: int) -> dict[str, ClassFiles]:
    """One level of class folders, cut 60/20/20 class by class."""
    small = [f"{n} ({len(f)})" for n, f in classes.items() if len(f) < SMALLEST_CLASS_TO_SPLIT]
    if small:
        raise _refusal(
            f"{root}: too few photos to split: {_some(small)}; every class needs at least"
            f" {SMALLEST_CLASS_TO_SPLIT} (train, val and test), so add photos or remove the class"
        )
    splits: dict[str, ClassFiles] = {split: {} for split in SPLITS}
    for name, files in classes.items():

        def place(path: Path, name: str = name) -> int:
            return derive_seed(seed, f"split/{name}/{path.name}")

        drawn = sorted(files, key=place)
        fifth = (len(files) + 2) // 5  # n / 5 to the nearest; 1 for the smallest class, 3 photos
        splits["val"][name] = sorted(drawn[:fifth])
        splits["test"][name] = sorted(drawn[fifth : 2 * fifth])
        splits["train"][name] = sorted(drawn[2 * fifth :])
    return splits


def _classes(folder: Path) -> ClassFiles:
    """The class folders of `folder` and their files, at least two classes, none empty."""
    folders = _folders(folder)
    if not folders:
        raise _refusal(
            f"{folder} holds no class folders: put the photos into one folder for each class"
        )
    classes = {name: list(_entries(path).values()) for name, path in folders.items()}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise _refusal(
            f"{folder}: no photos in {_names(empty)}: add photos there or remove the folder"
        )
    nested = [name for name, files in classes.items() if all(file.is_dir() for file in files)]
    if nested:
        raise _refusal(
            f"{folder}: {_names(nested)} holds folders and no files: photos must lie directly in"
            " their class folder"
        )
    if len(classes) == 1:
        raise _refusal(
            f"{folder} holds only one class, {_names(list(classes))}: a classifier needs at least"
            " two class folders"
        )
    return classes


def _folders(folder: Path) -> dict[str, Path]:
    """The folders in `folder`, linked ones too, by name and sorted."""
    entries = _entries(folder)
    lost = [
        name for name, path in entries.items() if os.path.islink(path) and not os.path.exists(path)
    ]
    if lost:
        raise _refusal(f"{folder}: {_some(lost)} links to nothing: mend or remove the link")
    return {name: path for name, path in entries.items() if os.path.isdir(path)}


def _entries(folder: Path) -> dict[str, Path]:
    """What lies directly in `folder`, by name and sorted, less what operating systems drop."""
    try:
        found = os.listdir(folder)
    except FileNotFoundError:
        raise _refusal(f"data.root: there is no folder {folder}") from None
    except NotADirectoryError:
        raise _refusal(f"data.root: {folder} is a file, not a folder of class folders") from None
    except OSError as error:
        raise _refusal(f"data.root: cannot list {folder}: {error.strerror}") from None
    names = sorted(name for name in found if not is_dropped(name))
    for name in names:
        # Results name classes and photos, in JSON and CSV, which are UTF-8.
        if not _is_text(name):
            raise _refusal(f"{folder}: the name {name!a} is not valid UTF-8: rename it")
    return {name: folder / name for name in names}


def is_dropped(name: str) -> bool:
    """Whether an entry of a folder is hidden, or one that operating systems leave there."""
    return name.startswith(".") or name.lower() in DROPPED_BY_SYSTEMS


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _numbered(classes: ClassFiles) -> Split:
    pairs = [(path, label) for label, files in enumerate(classes.values()) for path in files]
    return Split(tuple(path for path, _ in pairs), tuple(label for _, label in pairs))


def _refusal(message: str) -> UsageError:
    """One line, whatever files and folders are called."""
    return UsageError(printable(message))


def _names(folders: list[str]) -> str:
    return _some([f"{name}/" for name in folders])


def _some(things: list[str]) -> str:
    some = ", ".join(things[:5])
    return some if len(things) <= 5 else f"{some} and {len(things) - 5} more"


def photos_below(folder: Path, unlisted: Callable[[Path, str], None]) -> Iterator[Path]:
    """Every file below `folder`, a folder's own before those of its folders, by name.

    Links are followed, though into no folder twice. Left out is what operating systems drop
    (`is_dropped`); whether a file is a photo is seen when it is decoded. `unlisted(folder, reason)`
    is told of a folder that cannot be listed. Memory is that of the names in the folders that are
    open at once.
    """
    yield from _below(folder, unlisted, set())


def _below(
    folder: Path, unlisted: Callable[[Path, str], None], seen: set[tuple[int, int]]
) -> Iterator[Path]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        names = sorted(name for name in os.listdir(folder) if not is_dropped(name))
    except OSError as error:
        unlisted(folder, f"cannot be listed: {error.strerror or error}")
        return
    folders = []
    for name in names:
        path = folder / name
        if os.path.isdir(path):
            folders.append(path)
        else:
            yield path
    for inner in folders:
        yield from _below(inner, unlisted, seen)
