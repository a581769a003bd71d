"""Oxford Flowers-102 (Nilsback and Zisserman, 2008) with its official splits.

https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
"""

import os
import shutil
from functools import partial
from pathlib import Path

from flowertune import files
from flowertune.data.cache_dir import BUILDING, LOCK, META, write_meta
from flowertune.data.dataset import ImageDataset, Progress, Split
from flowertune.data.download import fetch, unpack
from flowertune.errors import UsageError
from flowertune.files import lock

ARCHIVE, LABELS, SPLIT_IDS = "102flowers.tgz", "imagelabels.mat", "setid.mat"
IMAGES, IMAGE_NAME = "jpg", "image_{:05d}.jpg"  # the folder inside the archive, and its files
PARTIAL = IMAGES + BUILDING  # where it is unpacked
# The data set's files number the classes and do not name them. These are the names that CLIP's
# zero-shot results were measured with (openai/CLIP, data/prompts.md), in the order of the labels.
# torchvision's list, which follows the data set's home page, spells three of them otherwise:
# "globe-flower", "pink-yellow dahlia?" and, for "air plant", "ball moss".
CLASS_NAMES = tuple(
    Path(__file__).with_name("flowers102_classes.txt").read_text(encoding="utf-8").splitlines()
)
ID_KEYS = {"train": "trnid", "val": "valid", "test": "tstid"}

N_IMAGES = 8189
MD5 = {  # as torchvision states them
    ARCHIVE: "52808999861908f626f3c1f4e79d11fa",
    LABELS: "e0620be6f572b9609742df49c70aed4d",
    SPLIT_IDS: "a5357ecc9cb78c4bef273ce3793fc85c",
}


def list_images(root: Path, *, url: str, progress: Progress) -> ImageDataset:
    """List the official splits, after fetching what is missing in `root` from the base `url`.

    Files that lie in `root` already are used: the three published ones, or `jpg/` unpacked. An
    interruption leaves nothing that a later call would take for done. Several processes may call
    this at once.

    Raises UsageError where something can be neither found nor fetched, or is another file.
    """
    try:
        if _missing_files(root):
            _fetch_missing(root, url, progress)
        splits = _read_splits(root)
    except OSError as error:
        raise UsageError(f"data.root: cannot use {root} for Flowers-102: {error}") from error
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    protocol = f"Flowers-102 official: {sizes}"
    return ImageDataset(root, protocol, CLASS_NAMES, None, splits)


def _read_splits(root: Path) -> dict[str, Split]:
    # Half a second to import, and only this source needs it.
    from scipy.io import loadmat

    labels = loadmat(root / LABELS, squeeze_me=True)["labels"].tolist()
    ids = loadmat(root / SPLIT_IDS, squeeze_me=True)
    return {
        split: Split(
            tuple(root / IMAGES / IMAGE_NAME.format(number) for number in ids[key].tolist()),
            # photos and classes both count from 1
            tuple(int(labels[number - 1]) - 1 for number in ids[key].tolist()),
        )
        for split, key in ID_KEYS.items()
    }


def _missing_files(root: Path) -> list[str]:
    """Name the published files that are missing; the archive where there is no `jpg/`.

    Raises UsageError for wrong ones, which only a person can replace.
    """
    missing = []
    for name in (LABELS, SPLIT_IDS):
        if not (root / name).exists():
            missing.append(name)
        else:
            _check_md5(root / name)
    folder = root / IMAGES
    if not folder.exists():
        missing.append(ARCHIVE)
    elif (count := _count_images(folder)) < N_IMAGES:
        raise UsageError(
            f"{folder} holds {count:,} of {N_IMAGES:,} photos: remove the folder to have it"
            " made anew, or complete it"
        )
    return missing


def _count_images(folder: Path) -> int:
    """Count the files image_00001.jpg ... that exist and are not empty."""
    expected = {IMAGE_NAME.format(number) for number in range(1, N_IMAGES + 1)}
    with os.scandir(folder) as entries:
        return sum(entry.name in expected and entry.stat().st_size > 0 for entry in entries)


def _check_md5(path: Path) -> None:
    md5, official = files.digest_of(path, "md5"), MD5[path.name]
    if md5 != official:
        raise UsageError(
            f"{path} is not the official file: its md5 is {md5}, expected {official}; remove it to"
            " have it fetched, or put the right one there"
        )


def _fetch_missing(root: Path, url: str, progress: Progress) -> None:
    hint = (
        f"go on with data=synthetic or data=folder, or put {ARCHIVE}, {LABELS} and {SPLIT_IDS}"
        f" into {root} by hand"
    )
    root.mkdir(parents=True, exist_ok=True)
    waiting = "waiting for another process that fetches the same files"
    with lock(root / LOCK, partial(progress, waiting, 0, None)):
        names = (IMAGES, PARTIAL, *MD5, *(f".{name}.part" for name in MD5))
        if not (root / META).exists():  # `root` may be a person's own, with a file of this name
            write_meta(root, "Flowers-102, as published", names=names)
        missing = _missing_files(root)
        for name in missing:  # the small ones first: no network shows at once
            if (root / name).exists():
                _check_md5(root / name)
                continue
            if not url.startswith(("http://", "https://")):
                raise UsageError(f"data.url={url}: must start with http:// or https://")
            address = f"{url.rstrip('/')}/{name}"
            fetch(address, root / name, md5=MD5[name], progress=progress, hint=hint)
        if ARCHIVE in missing:
            _unpack_images(root, progress)


def _unpack_images(root: Path, progress: Progress) -> None:
    """Unpack jpg/, which appears with one rename after all its images have been counted."""
    incomplete = root / PARTIAL
    try:
        if incomplete.exists():  # of a process that was killed
            shutil.rmtree(incomplete)
        unpack(root / ARCHIVE, incomplete, total=N_IMAGES, progress=progress)
        images = incomplete / IMAGES
        count = _count_images(images) if images.is_dir() else 0
        if count < N_IMAGES:
            raise UsageError(
                f"{root / ARCHIVE} holds {count:,} of {N_IMAGES:,} photos: remove it and"
                " start again"
            )
        os.replace(images, root / IMAGES)
        files.flush_folder(root)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)
