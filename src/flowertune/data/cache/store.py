"""Store the decoded images of each split in a directory that is either complete or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowertune.data import cache_dir
from flowertune.data.cache.decode import StoreIndex, decode_into, train_canvas
from flowertune.data.cache.memmap import ChecksummedMemmap
from flowertune.data.dataset import Progress, Split
from flowertune.data.image import (
    UNREADABLE,
    Preprocessing,
    UnreadableImageError,
    eval_transform,
    image_bytes,
    readable_formats,
)
from flowertune.errors import UsageError, printable
from flowertune.files import format_bytes, lock

FORMAT = 3
BadFile = tuple[Path, str]
FILES = ("eval.u8", "train.u8")  # the evaluation form, and the training form if there is one


@dataclass(frozen=True)
class PlannedStore:
    """The pixel store of a split, which may not exist yet."""

    name: str
    split: Split
    preprocessing: Preprocessing
    train_form: bool
    directory: Path

    @property
    def eval_bytes(self) -> int:
        height, width = self.preprocessing.size
        return 3 * height * width * len(self.split)


@dataclass(frozen=True)
class CachedSplit:
    """A split with its open pixels, which stay readable if their directory is deleted.

    `split` lists the readable images; row i is `split.paths[i]`. `eval_pixels` (N, 3, H, W) uint8
    are open_clip's own, before normalization. `train_pixels` (N, 3, Hc, Wc) uint8 keep the aspect
    ratio: each image is in the top left corner of a canvas of common size, padded with zeros, and
    `train_sizes` (N, 2) int32 are the true (height, width); both None without a training form.
    `sha256` are hashes of the files' contents, `key` names the cache directory, `bad` lists the
    unreadable images with reasons.
    """

    split: Split
    eval_pixels: ChecksummedMemmap
    train_pixels: ChecksummedMemmap | None
    train_sizes: NDArray[np.int32] | None
    sha256: tuple[str, ...]
    key: str
    bad: tuple[BadFile, ...]


def open_or_build(
    splits: Mapping[str, Split],
    preprocessing: Preprocessing,
    *,
    train_form: Collection[str],
    folder: Path,
    progress: Progress,
) -> dict[str, CachedSplit]:
    """Open the pixel stores of these splits under `folder`, building those that are missing.

    `train_form` names the splits with a training form; list these first. One process builds a
    store while others wait for it. A damaged store is rebuilt; of its pixels only the file size is
    checked here. Raises UsageError if the folder cannot be written or lacks space for all stores.
    """
    plans = []
    for name, split in splits.items():
        key = store_key(split.paths, preprocessing, name in train_form)
        plans.append(PlannedStore(name, split, preprocessing, name in train_form, folder / key))
    stores = {}
    for plan in plans:
        others = [other for other in plans if other is not plan and not other.directory.is_dir()]
        other_bytes = sum(other.eval_bytes for other in others)
        stores[plan.name] = _open_or_build(plan, other_bytes, progress)
    return stores


def _open_or_build(planned: PlannedStore, other_bytes: int, progress: Progress) -> CachedSplit:
    """Open or build one store; the other missing stores will need `other_bytes`."""
    directory, folder = planned.directory, planned.directory.parent
    found = _find(planned)
    if isinstance(found, CachedSplit):
        return found
    waiting = f"{planned.name}: waiting for another process to decode the images"
    announce = partial(progress, waiting, 0, len(planned.split))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(directory.with_suffix(cache_dir.LOCK), announce):
            again = _find(planned)  # built by another process in the meantime
            if isinstance(again, CachedSplit):
                return again
            if again is not None:
                message = f"{planned.name}: rebuilding the image cache ({again})"
                progress(message, 0, len(planned.split))
                shutil.rmtree(directory)  # its space counts as free
            build_store(planned, other_bytes, progress)
            return _open(planned)
    except OSError as error:
        task = f"write the image cache in {folder}"
        if found is not None:
            task = f"rebuild the image cache {directory} ({found})"
        reason = error.strerror or error
        raise UsageError(f"cannot {task}: {reason}; {cache_dir.MOVE_HINT}") from error


def store_key(paths: Sequence[Path], preprocessing: Preprocessing, train_form: bool) -> str:
    """Hash everything the pixels depend on: files, sizes, times, transform, library versions."""
    versions = [FORMAT, version("pillow"), version("open_clip_torch"), version("torchvision")]
    if "HEIF" in readable_formats():
        versions.append(version("pi-heif"))
    digest = hashlib.sha256()
    digest.update(json.dumps([versions, preprocessing.to_dict(), train_form]).encode())
    for path in paths:
        try:
            status = path.stat()
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:
            size, mtime = -1, -1  # decoding will report the reason
        digest.update(b"\0" + os.fsencode(os.path.abspath(path)) + b"\0%d %d" % (size, mtime))
    return digest.hexdigest()[:32]


def _find(planned: PlannedStore) -> CachedSplit | str | None:
    """Open an existing store; return why it cannot be used, or None if there is none."""
    if not planned.directory.is_dir():
        return None
    try:
        cached = _open(planned)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", error))
    for path, reason in cached.bad:
        if reason.startswith(UNREADABLE):
            with suppress(UnreadableImageError):
                image_bytes(path)
                return f"{printable(path.name)} can be read now"
    return cached


def _open(planned: PlannedStore) -> CachedSplit:
    """Open a store. Raises OSError, or ValueError if it is damaged."""
    directory = planned.directory
    meta = cache_dir.read_meta(directory)
    if meta.get("key") != directory.name:
        raise ValueError("its index belongs to another cache")
    index = StoreIndex.from_meta(meta)
    sizes = [planned.preprocessing.size, *([index.canvas] if index.canvas else [])]
    forms = []
    for name, (height, width), crc32 in zip(FILES, sizes, index.crc32, strict=False):
        if (directory / name).stat().st_size != len(crc32) * 3 * height * width:
            raise ValueError(f"{name} has the wrong size")
        forms.append(ChecksummedMemmap(directory / name, (3, height, width), crc32))
    cache_dir.touch(directory)
    paths, labels = planned.split.paths, planned.split.labels
    train_sizes = np.array(index.train_sizes, dtype=np.int32).reshape(-1, 2)
    return CachedSplit(
        Split(tuple(paths[row] for row in index.kept), tuple(labels[row] for row in index.kept)),
        eval_pixels=forms[0],
        train_pixels=forms[1] if index.canvas else None,
        train_sizes=train_sizes if index.canvas else None,
        sha256=tuple(index.sha256),
        key=directory.name,
        bad=tuple((paths[row], reason) for row, reason in sorted(index.bad.items())),
    )


def build_store(planned: PlannedStore, other_bytes: int, progress: Progress) -> None:
    """Build a store completely or not at all, with a few images per core in memory."""
    name, paths, preprocessing = planned.name, planned.split.paths, planned.preprocessing
    directory = planned.directory
    progress(f"{name}: decoding images", 0, len(paths))
    eval_transform(preprocessing)  # imports open_clip once, before the threads do
    canvas, needed = None, planned.eval_bytes
    if planned.train_form:
        canvas = train_canvas(paths, preprocessing, name, progress)
        needed += 3 * canvas[0] * canvas[1] * len(paths)
    cache_dir.check_space("the image cache", needed + other_bytes, directory.parent)
    try:
        with cache_dir.build_entry(directory) as partial_dir:
            with ExitStack() as stack:
                names = FILES if canvas else FILES[:1]
                pixels = [stack.enter_context((partial_dir / each).open("wb")) for each in names]
                index = decode_into(pixels, paths, preprocessing, canvas, name, progress)
            root = os.path.commonpath([path.parent for path in paths])
            description = f"{name} of {root}: {len(index.kept):,} images"
            cache_dir.write_meta(partial_dir, description, key=directory.name, **asdict(index))
    except OSError as error:
        raise UsageError(
            f"cannot write the image cache of {name} ({format_bytes(needed)}) in "
            f"{directory.parent}: {error.strerror or error}; {cache_dir.MOVE_HINT}"
        ) from error
