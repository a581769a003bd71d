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
PARTIAL = IMAGES + BUILDING  # the archive is unpacked here first
# The dataset's files number the classes without naming them. These are the names that CLIP's
# zero-shot results were measured with (openai/CLIP, data/prompts.md), in the order of the labels.
# torchvision's list, which follows the dataset's home page, has three other names:
# "globe-flower", "pink-yellow dahlia?" and, for "air plant", "ball moss".
CLASS_NAMES = tuple(
    Path(__file__).with_name("flowers102_classes.txt").read_text(encoding="utf-8").splitlines()
)
ID_KEYS = {"train": "trnid", "val": "valid", "test": "tstid"}

N_IMAGES = 8189
MD5 = {  # the same as torchvision's
    ARCHIVE: "52808999861908f626f3c1f4e79d11fa",
    LABELS: "e0620be6f572b9609742df49c70aed4d",
    SPLIT_IDS: "a5357ecc9cb78c4bef273ce3793fc85c",
}


def list_images(root: Path, *, url: str, progress: Progress) -> ImageDataset:
    """List the official splits, after fetching missing files into `root` from the base `url`.

    Uses files that are already in `root`: the three published ones, or an unpacked `jpg/`. An
    interrupted call leaves nothing that a later one would take for complete. Several processes may
    call this at the same time.

    Raises UsageError if a file can be neither found nor fetched, or is not the official one.
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
    # takes 0.5 s to import, and only this source needs it
    from scipy.io import loadmat

    labels = loadmat(root / LABELS, squeeze_me=True)["labels"].tolist()
    ids = loadmat(root / SPLIT_IDS, squeeze_me=True)
    return {
        split: Split(
            tuple(root / IMAGES / IMAGE_NAME.format(number) for number in ids[key].tolist()),
            # images and classes are numbered from 1
            tuple(int(labels[number - 1]) - 1 for number in ids[key].tolist()),
        )
        for split, key in ID_KEYS.items()
    }


def _missing_files(root: Path) -> list[str]:
    """Return the names of missing published files; the archive counts if there is no `jpg/`.

    Raises UsageError for wrong files, which only the user can replace.
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
            f"{folder}: has only {count:,} of {N_IMAGES:,} images; complete the folder, or delete"
            " it to have it created again"
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
            f"{path}: not the official file, MD5 is {md5}, expected {official}; replace it, or"
            " delete it to have it fetched"
        )


def _fetch_missing(root: Path, url: str, progress: Progress) -> None:
    hint = (
        f"use data=synthetic or data=folder, or put {ARCHIVE}, {LABELS} and {SPLIT_IDS}"
        f" into {root} yourself"
    )
    root.mkdir(parents=True, exist_ok=True)
    waiting = "waiting for another process to fetch the same files"
    with lock(root / LOCK, partial(progress, waiting, 0, None)):
        names = (IMAGES, PARTIAL, *MD5, *(f".{name}.part" for name in MD5))
        if not (root / META).exists():  # `root` may be the user's, with a file of this name
            write_meta(root, "Flowers-102, as published", names=names)
        missing = _missing_files(root)
        for name in missing:  # small files first, so that a missing network shows at once
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
    """Unpack jpg/, which appears by one rename after all its images have been counted."""
    incomplete = root / PARTIAL
    try:
        if incomplete.exists():  # left by a killed process
            shutil.rmtree(incomplete)
        unpack(root / ARCHIVE, incomplete, total=N_IMAGES, progress=progress)
        images = incomplete / IMAGES
        count = _count_images(images) if images.is_dir() else 0
        if count < N_IMAGES:
            raise UsageError(
                f"{root / ARCHIVE}: has only {count:,} of {N_IMAGES:,} images; delete it and"
                " run again"
            )
        os.replace(images, root / IMAGES)
        files.flush_folder(root)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)
