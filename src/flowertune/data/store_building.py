"""Writing a store of pixels: beside its place, flushed, then renamed."""

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import filelock

from flowertune import files
from flowertune.data.cache_folder import MOVE_HINT, check_space
from flowertune.data.decoding import Progress, decode_into, train_canvas
from flowertune.data.pixels import Preprocessing, eval_transform
from flowertune.data.store_index import EVAL_FILE, INDEX_FILE, TRAIN_FILE, StoreIndex
from flowertune.errors import Refused
from flowertune.files import in_words


@dataclass(frozen=True)
class PlannedStore:
    """The store of a split's photos, which may not be there yet."""

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


def build(planned: PlannedStore, others: int, progress: Progress) -> None:
    """Write the store beside, then rename it. Memory holds a few photos a core, not the split."""
    name, paths, preprocessing = planned.name, planned.paths, planned.preprocessing
    progress(f"{name}: decoding photos", 0, len(paths))
    eval_transform(preprocessing)  # imports open_clip, once, before the threads do
    canvas, needed = None, planned.eval_bytes
    if planned.train_form:
        canvas = train_canvas(paths, preprocessing, name, progress)
        needed += 3 * canvas[0] * canvas[1] * len(paths)
    check_space("the photo cache", needed + others, planned.folder)

    building = planned.directory.with_name(f"{planned.key}.building")
    building.mkdir()
    try:
        index = _write_pixels(building, planned, canvas, progress)
        with (building / INDEX_FILE).open("wb") as file:
            file.write(index.to_json(planned.key).encode())
            _flush(file)
        files.flush_folder(building)
        building.rename(planned.directory)
        files.flush_folder(planned.folder)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise Refused(
            f"the photo cache of {name} takes {in_words(needed)} and cannot be written in "
            f"{planned.folder}: {error.strerror or error}; {MOVE_HINT}"
        ) from error
    except BaseException:  # Ctrl-C too: no half cache stays
        shutil.rmtree(building, ignore_errors=True)
        raise


def _write_pixels(
    building: Path, planned: PlannedStore, canvas: tuple[int, int] | None, progress: Progress
) -> StoreIndex:
    with ExitStack() as opened:
        eval_file = opened.enter_context((building / EVAL_FILE).open("wb"))
        train_file = None
        if canvas is not None:
            train_file = opened.enter_context((building / TRAIN_FILE).open("wb"))
        decoded = decode_into(
            eval_file, train_file, planned.paths, planned.preprocessing, canvas,
            planned.name, progress,
        )  # fmt: skip
        for file in (eval_file, train_file):
            if file is not None:
                _flush(file)
    with_train = [] if canvas is None else decoded.rows
    return StoreIndex(
        split=planned.name,
        folder=os.path.commonpath([path.parent for path in planned.paths]),
        kept=tuple(decoded.kept),
        bad=decoded.bad,
        sha256=tuple(row.sha256 for row in decoded.rows),
        canvas=canvas,
        train_sizes=tuple(row.train_size for row in with_train),
        eval_crc32=tuple(row.eval_crc32 for row in decoded.rows),
        train_crc32=tuple(row.train_crc32 for row in with_train),
    )


def remove_orphans(folder: Path, own_key: str) -> None:
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
