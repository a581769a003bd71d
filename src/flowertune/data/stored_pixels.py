"""The decoded photos of each split in a directory of their own: built once, complete or absent."""

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
from flowertune.data.cache_folder import MOVE_HINT, check_space, in_words
from flowertune.data.decoding import Progress, decode_into, read_row, train_canvas
from flowertune.data.lock import held
from flowertune.data.pixels import Preprocessing, eval_transform
from flowertune.data.store_index import StoreIndex, read_index
from flowertune.data.stored_rows import StoredRows
from flowertune.errors import Refused

FORMAT = 2
EVAL_FILE, TRAIN_FILE, INDEX_FILE = "eval.u8", "train.u8", "index.json"


@dataclass(frozen=True)
class StoredPixels:
    """A complete store of pixels; `paths` are the photos of its rows."""

    directory: Path
    key: str
    preprocessing: Preprocessing
    paths: tuple[Path, ...]
    index: StoreIndex

    def eval_pixels(self) -> StoredRows:
        """(N, 3, H, W) uint8, read from the disk as it is used."""
        shape, crc32 = (3, *self.preprocessing.size), self.index.eval_crc32
        return StoredRows(
            self.directory / EVAL_FILE, shape, crc32, self.paths, self._decoded_eval_pixels
        )

    def train_pixels(self) -> StoredRows | None:
        """(N, 3, Hc, Wc) uint8: each picture in the top left corner of the canvas, rest zero."""
        if self.index.canvas is None:
            return None
        shape, crc32 = (3, *self.index.canvas), self.index.train_crc32
        return StoredRows(
            self.directory / TRAIN_FILE, shape, crc32, self.paths, self._decoded_train_pixels
        )

    def train_sizes(self) -> NDArray[np.int32] | None:
        """(N, 2) int32: the true (height, width) of each training picture."""
        if self.index.canvas is None:
            return None
        return np.array(self.index.train_sizes, dtype=np.int32).reshape(-1, 2)

    def _decoded_eval_pixels(self, row: int) -> NDArray[np.uint8]:
        return read_row(self.paths[row], self.preprocessing, None).eval_pixels

    def _decoded_train_pixels(self, row: int) -> NDArray[np.uint8]:
        pixels = read_row(self.paths[row], self.preprocessing, self.index.canvas).train_pixels
        assert pixels is not None
        return pixels


class _DamagedError(Refused):
    """A store's index is damaged, or a file of it has the wrong length."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"the photo cache {directory} is damaged ({reason})")
        self.reason = reason


@dataclass(frozen=True)
class _Wanted:
    """The store that a split's photos should have."""

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


def open_or_build(
    splits: Mapping[str, Sequence[Path]],
    preprocessing: Preprocessing,
    *,
    train_form: Collection[str],
    folder: Path,
    progress: Progress,
) -> dict[str, StoredPixels]:
    """The stores of these splits' photos under `folder`, each built now if it is not there.

    `train_form` names the splits that have one; they come first. The split's name opens the
    descriptions that `progress(description, done, total)` gets. Of several processes one builds
    and the others wait. One that dies leaves only a temporary directory, which the next builder
    removes. A damaged store is built anew; of its pixels it is only seen how many there are.
    Raises Refused where the folder cannot be written or lacks the space for all of them.
    """
    wanted = []
    for name, paths in splits.items():
        key = store_key(paths, preprocessing, name in train_form)
        wanted.append(_Wanted(name, paths, preprocessing, name in train_form, folder, key))
    stores = {}
    for each in wanted:
        others = sum(
            other.eval_bytes
            for other in wanted
            if other is not each and not other.directory.is_dir()
        )
        stores[each.name] = _opened_or_built(each, others, progress)
    return stores


def _opened_or_built(wanted: _Wanted, others: int, progress: Progress) -> StoredPixels:
    """others: how many bytes the stores that are still missing will take."""
    folder, damaged = wanted.folder, None
    try:
        if wanted.directory.is_dir():
            return _open(wanted)
    except _DamagedError as error:
        damaged = error
    waiting = f"{wanted.name}: waiting for another process that decodes them"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / f"{wanted.key}.lock"
        with held(lock, partial(progress, waiting, 0, len(wanted.paths))):
            try:
                if wanted.directory.is_dir():  # by another process in the meantime, or damaged
                    return _open(wanted)
            except _DamagedError as error:
                progress(
                    f"{wanted.name}: the cache is damaged ({error.reason}) and made anew",
                    0, len(wanted.paths),
                )  # fmt: skip
                shutil.rmtree(wanted.directory)
            _remove_orphans(folder, wanted.key)
            _build(wanted, others, progress)
    except OSError as error:
        cannot = f"{damaged} and" if damaged else f"the photo cache in {folder}"
        reason = error.strerror or error
        raise Refused(f"{cannot} cannot be written: {reason}; {MOVE_HINT}") from error
    return _open(wanted)


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


def _open(wanted: _Wanted) -> StoredPixels:
    directory = wanted.directory
    try:
        index = read_index(directory / INDEX_FILE, wanted.key)
        lengths = {EVAL_FILE: wanted.preprocessing.size}
        if index.canvas is not None:
            lengths[TRAIN_FILE] = index.canvas
        for file, (height, width) in lengths.items():
            if (directory / file).stat().st_size != len(index.kept) * 3 * height * width:
                raise ValueError(f"{file} has the wrong length")
    except (OSError, ValueError) as error:
        raise _DamagedError(directory, str(getattr(error, "strerror", error))) from error
    paths = tuple(wanted.paths[place] for place in index.kept)
    return StoredPixels(directory, wanted.key, wanted.preprocessing, paths, index)


def _build(wanted: _Wanted, others: int, progress: Progress) -> None:
    """Write the store beside, then rename it. Memory holds a few photos a core, not the split."""
    name, paths, preprocessing = wanted.name, wanted.paths, wanted.preprocessing
    progress(f"{name}: decoding photos", 0, len(paths))
    eval_transform(preprocessing)  # imports open_clip, once, before the threads do
    canvas, needed = None, wanted.eval_bytes
    if wanted.train_form:
        canvas = train_canvas(paths, preprocessing, name, progress)
        needed += 3 * canvas[0] * canvas[1] * len(paths)
    check_space("the photo cache", needed + others, wanted.folder)

    building = wanted.directory.with_name(f"{wanted.key}.building")
    building.mkdir()
    try:
        index = _write_pixels(building, wanted, canvas, progress)
        with (building / INDEX_FILE).open("wb") as file:
            file.write(index.to_json(wanted.key).encode())
            _flush(file)
        files.flush_folder(building)
        building.rename(wanted.directory)
        files.flush_folder(wanted.folder)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise Refused(
            f"the photo cache of {name} takes {in_words(needed)} and cannot be written in "
            f"{wanted.folder}: {error.strerror or error}; {MOVE_HINT}"
        ) from error
    except BaseException:  # Ctrl-C too: no half cache stays
        shutil.rmtree(building, ignore_errors=True)
        raise


def _write_pixels(
    building: Path, wanted: _Wanted, canvas: tuple[int, int] | None, progress: Progress
) -> StoreIndex:
    with ExitStack() as opened:
        eval_file = opened.enter_context((building / EVAL_FILE).open("wb"))
        train_file = None
        if canvas is not None:
            train_file = opened.enter_context((building / TRAIN_FILE).open("wb"))
        decoded = decode_into(
            eval_file, train_file, wanted.paths, wanted.preprocessing, canvas, wanted.name, progress
        )
        for file in (eval_file, train_file):
            if file is not None:
                _flush(file)
    with_train = [] if canvas is None else decoded.rows
    return StoreIndex(
        kept=tuple(decoded.kept),
        bad=decoded.bad,
        sha256=tuple(row.sha256 for row in decoded.rows),
        canvas=canvas,
        train_sizes=tuple(row.train_size for row in with_train),
        eval_crc32=tuple(row.eval_crc32 for row in decoded.rows),
        train_crc32=tuple(row.train_crc32 for row in with_train),
    )


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


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
