"""The decoded photos of one split in a directory of their own: built once, complete or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

import filelock
import numpy as np
from numpy.typing import NDArray

from flowertune import files
from flowertune.data.cache_folder import MOVE_HINT, mark_used
from flowertune.data.decoding import Progress, decode_into, train_canvas
from flowertune.data.pixels import Preprocessing, eval_transform
from flowertune.errors import Refused

FORMAT = 1


@dataclass(frozen=True)
class StoredPixels:
    """A complete store of pixels. Rows are the photos that decoded, in the order they were listed.

    `kept[row]` is the photo's place in the list, `bad` maps the other places to the reason,
    `sha256[row]` is the hash of the file's content. `canvas` is the (height, width) that holds
    every training picture, None where there is no training form.
    """

    directory: Path
    key: str
    size: tuple[int, int]
    kept: tuple[int, ...]
    bad: dict[int, str]
    sha256: tuple[str, ...]
    canvas: tuple[int, int] | None

    def eval_pixels(self) -> NDArray[np.uint8]:
        """(N, 3, H, W) uint8, read from the disk as it is used."""
        shape = (len(self.kept), 3, *self.size)
        return np.memmap(self.directory / "eval.u8", np.uint8, mode="r", shape=shape)

    def train_pixels(self) -> NDArray[np.uint8] | None:
        """(N, 3, Hc, Wc) uint8: each picture in the top left corner of the canvas, rest zero."""
        if self.canvas is None:
            return None
        shape = (len(self.kept), 3, *self.canvas)
        return np.memmap(self.directory / "train.u8", np.uint8, mode="r", shape=shape)

    def train_sizes(self) -> NDArray[np.int32] | None:
        """(N, 2) int32: the true (height, width) of each training picture."""
        if self.canvas is None:
            return None
        sizes: NDArray[np.int32] = np.load(self.directory / "train_sizes.npy", allow_pickle=False)
        return sizes


def open_or_build(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    train_form: bool,
    folder: Path,
    name: str,
    progress: Progress,
) -> StoredPixels:
    """The store of these photos under `folder`, built now if it is not there.

    `name` (the split) opens the descriptions that `progress(description, done, total)` gets. Of
    several processes one builds and the others wait. One that dies leaves only a temporary
    directory, which the next builder removes. Raises Refused where the folder cannot be written,
    lacks the space, or holds a damaged store.
    """
    key = store_key(paths, preprocessing, train_form)
    directory = folder / key
    if directory.is_dir():
        return _open(directory, key, preprocessing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(f"{name}: waiting for another process that decodes them", 0, len(paths))
            lock.acquire()
        try:
            if not directory.is_dir():
                _remove_orphans(folder, key)
                _build(paths, preprocessing, train_form, directory, name, progress)
        finally:
            lock.release()
    except OSError as error:
        reason = error.strerror or error
        raise Refused(f"cannot write the photo cache in {folder}: {reason}; {MOVE_HINT}") from error
    return _open(directory, key, preprocessing)


def store_key(paths: Sequence[Path], preprocessing: Preprocessing, train_form: bool) -> str:
    """What the pixels depend on: the files with size and time, the transform, who computes it."""
    made_by = [FORMAT, version("pillow"), version("open_clip_torch"), version("torchvision")]
    digest = hashlib.sha256()
    digest.update(json.dumps([made_by, preprocessing.to_dict(), train_form]).encode())
    for path in paths:
        try:
            status = path.stat()
            size, time = status.st_size, status.st_mtime_ns
        except OSError:
            size, time = -1, -1  # the decoding will say what is wrong with it
        digest.update(b"\0" + os.fsencode(os.path.abspath(path)) + b"\0%d %d" % (size, time))
    return digest.hexdigest()[:32]


def _open(directory: Path, key: str, preprocessing: Preprocessing) -> StoredPixels:
    try:
        index = json.loads((directory / "index.json").read_text(encoding="utf-8"))
        store = StoredPixels(
            directory=directory,
            key=key,
            size=preprocessing.size,
            kept=tuple(index["kept"]),
            bad={int(place): reason for place, reason in index["bad"].items()},
            sha256=tuple(index["sha256"]),
            canvas=tuple(index["canvas"]) if index["canvas"] is not None else None,
        )
        sizes = {"eval.u8": store.size} | ({"train.u8": store.canvas} if store.canvas else {})
        for file, (height, width) in sizes.items():
            if (directory / file).stat().st_size != len(store.kept) * 3 * height * width:
                raise ValueError(f"{file} has the wrong size")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"the photo cache {directory} is damaged ({error}): delete it") from error
    mark_used(directory)
    return store


def _build(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    train_form: bool,
    directory: Path,
    name: str,
    progress: Progress,
) -> None:
    """Write the store beside, then rename it. Memory holds a few photos a core, not the split."""
    progress(f"{name}: decoding photos", 0, len(paths))
    eval_transform(preprocessing)  # imports open_clip, once, before the threads do
    canvas = train_canvas(paths, preprocessing, name, progress) if train_form else (0, 0)
    height, width = preprocessing.size
    row_bytes = 3 * (height * width + canvas[0] * canvas[1])
    _check_space(directory.parent, len(paths) * row_bytes)

    building = directory.with_name(f"{directory.name}.building")
    building.mkdir()
    try:
        with (building / "eval.u8").open("wb") as eval_file:
            if train_form:
                with (building / "train.u8").open("wb") as train_file:
                    decoded = decode_into(
                        eval_file, train_file, paths, preprocessing, canvas, name, progress
                    )
                    _flush(train_file)
            else:
                decoded = decode_into(eval_file, None, paths, preprocessing, canvas, name, progress)
            _flush(eval_file)
        if train_form:
            with (building / "train_sizes.npy").open("wb") as file:
                np.save(file, np.array(decoded.train_sizes, dtype=np.int32).reshape(-1, 2))
                _flush(file)
        index = {
            "kept": decoded.kept,
            "bad": decoded.bad,
            "sha256": decoded.sha256,
            "canvas": canvas if train_form else None,
            # for people, who see the key alone
            "split": name,
            "folder": os.path.commonpath([path.parent for path in paths]),
        }
        with (building / "index.json").open("wb") as file:
            file.write(json.dumps(index).encode())
            _flush(file)
        files.flush_folder(building)
        building.rename(directory)
        files.flush_folder(directory.parent)
    except BaseException:  # Ctrl-C too: no half cache stays
        shutil.rmtree(building, ignore_errors=True)
        raise


def _remove_orphans(folder: Path, own_key: str) -> None:
    """Remove what builders left that died in the middle; a living one holds its key's lock."""
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


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refused(
            f"the photo cache needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB "
            f"are free; {MOVE_HINT}"
        )


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
