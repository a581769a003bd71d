"""Store the decoded images of each split in a directory: built once, complete or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

import filelock
import numpy as np
from numpy.typing import NDArray

from flowertune import files
from flowertune.data.cache.decode import Progress, decode_into, read_row, train_canvas
from flowertune.data.cache.index import EVAL_FILE, INDEX_FILE, TRAIN_FILE, StoreIndex, read_index
from flowertune.data.cache.memmap import ChecksummedMemmap
from flowertune.data.cache_dir import MOVE_HINT, check_space, touch
from flowertune.data.image import (
    UNREADABLE,
    Preprocessing,
    UnreadableImageError,
    eval_transform,
    image_bytes,
)
from flowertune.errors import UsageError, printable
from flowertune.files import format_bytes, lock

FORMAT = 2


@dataclass(frozen=True)
class PlannedStore:
    """The store of a split's pixels, which may not exist yet."""

    name: str
    paths: Sequence[Path]
    preprocessing: Preprocessing
    train_form: bool
    folder: Path
    key: str

    @property
    def directory(self) -> Path:
        return self.folder / self.key

    @property
    def eval_bytes(self) -> int:
        height, width = self.preprocessing.size
        return 3 * height * width * len(self.paths)


@dataclass(frozen=True)
class PixelStore:
    """A complete pixel store, open: it stays readable if its directory is deleted.

    `eval_pixels` (N, 3, H, W) uint8 and `train_pixels` (N, 3, Hc, Wc) uint8, each picture in the
    top left corner of the canvas and zero beside it, are read from the disk as they are used.
    `train_pixels` is None without a training form.
    """

    directory: Path
    key: str
    index: StoreIndex
    eval_pixels: ChecksummedMemmap
    train_pixels: ChecksummedMemmap | None

    def train_sizes(self) -> NDArray[np.int32] | None:
        """True (height, width) of each training image: (N, 2) int32."""
        if self.index.canvas is None:
            return None
        return np.array(self.index.train_sizes, dtype=np.int32).reshape(-1, 2)


class _UnusableStoreError(UsageError):
    """A store is damaged, or lacks an image that could not be read and now can."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"the photo cache {directory} has to be made anew ({reason})")
        self.reason = reason


def open_or_build(
    splits: Mapping[str, Sequence[Path]],
    preprocessing: Preprocessing,
    *,
    train_form: Collection[str],
    folder: Path,
    progress: Progress,
) -> dict[str, PixelStore]:
    """Open the pixel stores of these splits under `folder`, building those that are missing.

    `train_form` names the splits that have one; they come first. The split's name opens the
    descriptions that `progress(description, done, total)` gets. Of several processes one builds
    and the others wait. One that dies leaves only a temporary directory, which the next builder
    removes. A damaged store is built anew; of its pixels it is only seen how many there are.
    Raises UsageError where the folder cannot be written or lacks the space for all of them.
    """
    plans = []
    for name, paths in splits.items():
        key = store_key(paths, preprocessing, name in train_form)
        plans.append(PlannedStore(name, paths, preprocessing, name in train_form, folder, key))
    stores = {}
    for plan in plans:
        other_bytes = sum(
            other.eval_bytes
            for other in plans
            if other is not plan and not other.directory.is_dir()
        )
        stores[plan.name] = _open_or_build(plan, other_bytes, progress)
    return stores


def _open_or_build(planned: PlannedStore, other_bytes: int, progress: Progress) -> PixelStore:
    """Open one store; the others that are still missing will take `other_bytes`."""
    folder, unusable = planned.folder, None
    try:
        if planned.directory.is_dir():
            return _reopen(planned)
    except _UnusableStoreError as error:
        unusable = error
    message = f"{planned.name}: waiting for another process that decodes them"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        announce = partial(progress, message, 0, len(planned.paths))
        with lock(folder / f"{planned.key}.lock", announce):
            try:
                if planned.directory.is_dir():  # by another process in the meantime
                    return _reopen(planned)
            except _UnusableStoreError as error:
                progress(
                    f"{planned.name}: the cache has to be made anew ({error.reason})",
                    0, len(planned.paths),
                )  # fmt: skip
                shutil.rmtree(planned.directory)
            remove_orphans(folder, planned.key)
            build_store(planned, other_bytes, progress)
            return _open(planned)
    except OSError as error:
        subject = f"{unusable} and" if unusable else f"the photo cache in {folder}"
        reason = error.strerror or error
        raise UsageError(f"{subject} cannot be written: {reason}; {MOVE_HINT}") from error


def store_key(paths: Sequence[Path], preprocessing: Preprocessing, train_form: bool) -> str:
    """Hash what the pixels depend on: files, sizes, times, the transform, library versions."""
    versions = [FORMAT, version("pillow"), version("open_clip_torch"), version("torchvision")]
    digest = hashlib.sha256()
    digest.update(json.dumps([versions, preprocessing.to_dict(), train_form]).encode())
    for path in paths:
        try:
            status = path.stat()
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:
            size, mtime = -1, -1  # the decoding will say what is wrong with it
        digest.update(b"\0" + os.fsencode(os.path.abspath(path)) + b"\0%d %d" % (size, mtime))
    return digest.hexdigest()[:32]


def _open(planned: PlannedStore) -> PixelStore:
    directory = planned.directory
    try:
        index = read_index(directory / INDEX_FILE, planned.key)
        lengths = {EVAL_FILE: planned.preprocessing.size}
        if index.canvas is not None:
            lengths[TRAIN_FILE] = index.canvas
        for file, (height, width) in lengths.items():
            if (directory / file).stat().st_size != len(index.kept) * 3 * height * width:
                raise ValueError(f"{file} has the wrong length")
        rows = _open_rows(planned, index)
    except (OSError, ValueError) as error:
        raise _UnusableStoreError(directory, str(getattr(error, "strerror", error))) from error
    touch(directory)
    return PixelStore(directory, planned.key, index, *rows)


def _open_rows(
    planned: PlannedStore, index: StoreIndex
) -> tuple[ChecksummedMemmap, ChecksummedMemmap | None]:
    directory, preprocessing = planned.directory, planned.preprocessing
    paths = [planned.paths[i] for i in index.kept]

    def decode_eval_pixels(row: int) -> NDArray[np.uint8]:
        return read_row(paths[row], preprocessing, None).eval_pixels

    def decode_train_pixels(row: int) -> NDArray[np.uint8]:
        pixels = read_row(paths[row], preprocessing, index.canvas).train_pixels
        assert pixels is not None
        return pixels

    size = preprocessing.size
    eval_pixels = ChecksummedMemmap(
        directory / EVAL_FILE, (3, *size), index.eval_crc32, paths, decode_eval_pixels
    )
    if index.canvas is None:
        return eval_pixels, None
    return eval_pixels, ChecksummedMemmap(
        directory / TRAIN_FILE, (3, *index.canvas), index.train_crc32, paths, decode_train_pixels
    )


def _reopen(planned: PlannedStore) -> PixelStore:
    """Open a store of an earlier start, unless files that it could not read are readable now."""
    store = _open(planned)
    for index, reason in store.index.bad.items():
        path = planned.paths[index]
        if reason.startswith(UNREADABLE) and _is_readable(path):
            raise _UnusableStoreError(store.directory, f"{printable(path.name)} can be read now")
    return store


def _is_readable(path: Path) -> bool:
    try:
        image_bytes(path)
    except UnreadableImageError:
        return False
    return True


def build_store(planned: PlannedStore, other_bytes: int, progress: Progress) -> None:
    """Build a store under another name, then rename it. Memory holds a few images per core."""
    name, paths, preprocessing = planned.name, planned.paths, planned.preprocessing
    progress(f"{name}: decoding photos", 0, len(paths))
    eval_transform(preprocessing)  # imports open_clip, once, before the threads do
    canvas, needed = None, planned.eval_bytes
    if planned.train_form:
        canvas = train_canvas(paths, preprocessing, name, progress)
        needed += 3 * canvas[0] * canvas[1] * len(paths)
    check_space("the photo cache", needed + other_bytes, planned.folder)

    partial_dir = planned.directory.with_name(f"{planned.key}.building")
    partial_dir.mkdir()
    try:
        index = _write_pixels(partial_dir, planned, canvas, progress)
        with (partial_dir / INDEX_FILE).open("wb") as file:
            file.write(index.to_json(planned.key).encode())
            _flush(file)
        files.flush_folder(partial_dir)
        partial_dir.rename(planned.directory)
        files.flush_folder(planned.folder)
    except OSError as error:
        shutil.rmtree(partial_dir, ignore_errors=True)
        raise UsageError(
            f"the photo cache of {name} takes {format_bytes(needed)} and cannot be written in "
            f"{planned.folder}: {error.strerror or error}; {MOVE_HINT}"
        ) from error
    except BaseException:  # Ctrl-C too: no half cache stays
        shutil.rmtree(partial_dir, ignore_errors=True)
        raise


def _write_pixels(
    directory: Path, planned: PlannedStore, canvas: tuple[int, int] | None, progress: Progress
) -> StoreIndex:
    with ExitStack() as stack:
        eval_file = stack.enter_context((directory / EVAL_FILE).open("wb"))
        train_file = None
        if canvas is not None:
            train_file = stack.enter_context((directory / TRAIN_FILE).open("wb"))
        decoded = decode_into(
            eval_file, train_file, planned.paths, planned.preprocessing, canvas,
            planned.name, progress,
        )  # fmt: skip
        for file in (eval_file, train_file):
            if file is not None:
                _flush(file)
    train_rows = [] if canvas is None else decoded.rows
    return StoreIndex(
        split=planned.name,
        folder=os.path.commonpath([path.parent for path in planned.paths]),
        kept=tuple(decoded.indices),
        bad=decoded.bad,
        sha256=tuple(row.sha256 for row in decoded.rows),
        canvas=canvas,
        train_sizes=tuple(row.train_size for row in train_rows),
        eval_crc32=tuple(row.eval_crc32 for row in decoded.rows),
        train_crc32=tuple(row.train_crc32 for row in train_rows),
    )


def remove_orphans(folder: Path, own_key: str) -> None:
    """Remove the leftovers of killed builders; a living one holds its key's lock."""
    for building in folder.glob("*.building"):
        key = building.name.removesuffix(".building")
        if key == own_key:
            shutil.rmtree(building)
            continue
        try:
            with filelock.FileLock(folder / f"{key}.lock", timeout=0):
                shutil.rmtree(building, ignore_errors=True)
        except filelock.Timeout:
            continue


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
