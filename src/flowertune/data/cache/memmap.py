"""Stored pixels of a split in a memory map, each row verified when it is first read."""

import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowertune.data.cache.decode import parallel_map
from flowertune.data.cache_dir import MOVE_HINT
from flowertune.data.image import UnreadableImageError
from flowertune.errors import TrainingError, printable

ROWS_AT_ONCE = 64  # of one thread that verifies all

log = logging.getLogger(__name__)


class ChecksummedMemmap:
    """Memory map (N, ...) uint8. A row whose checksum is wrong is decoded anew.

    Indexing verifies the rows; `array` is the map as it is, for callers that call `verify`
    before. `decode(row)` gives a row's pixels from its image file, or raises
    UnreadableImageError.

    The map is one for reading, and a row is mended in the file below it: a private map that can be
    written to counts as memory, so that a store larger than that could not be opened at all.
    """

    def __init__(
        self,
        file: Path,
        shape: tuple[int, ...],
        crc32: Sequence[int],
        paths: Sequence[Path],
        decode: Callable[[int], NDArray[np.uint8]],
    ) -> None:
        self.file = file
        full_shape = (len(crc32), *shape)
        self.array: NDArray[np.uint8] = (
            np.memmap(file, np.uint8, mode="r", shape=full_shape)
            if crc32
            else np.zeros(full_shape, np.uint8)  # nothing cannot be mapped
        )
        self._crc32 = crc32
        self._paths = paths
        self._decode = decode
        self._unread = bytearray(b"\1" * len(crc32))

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows = np.arange(len(self))[key[0] if isinstance(key, tuple) else key]
        self.verify(np.atleast_1d(rows).tolist())
        pixels: NDArray[np.uint8] = self.array[key]
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        self.verify_all()
        return np.array(self.array, dtype=dtype, copy=copy)

    def verify(self, rows: Iterable[int]) -> None:
        """Verify the rows that were not yet verified in this process.

        Raises TrainingError where one is damaged and cannot be repaired.
        """
        for row in rows:
            if self._unread[row]:
                if not self._is_intact(row):
                    self._repair(row)
                self._unread[row] = 0

    def verify_all(self) -> None:
        """Verify all rows, on all cores."""
        parts = np.split(np.arange(len(self)), range(ROWS_AT_ONCE, len(self), ROWS_AT_ONCE))
        for _ in parallel_map(self.verify, (part.tolist() for part in parts)):
            pass

    def _is_intact(self, row: int) -> bool:
        return zlib.crc32(self.array[row].data) == self._crc32[row]

    def _repair(self, row: int) -> None:
        try:
            pixels = self._decode(row)
        except UnreadableImageError as error:
            raise self._error(row, f"and the photo cannot be decoded anew ({error})") from error
        if zlib.crc32(pixels.data) != self._crc32[row]:
            raise self._error(row, "and the photo is another one now")
        try:
            with self.file.open("r+b") as file:
                file.seek(row * pixels.nbytes)
                file.write(pixels.data)
        except OSError as error:
            reason = error.strerror or error
            raise self._error(row, f"and the file cannot be written ({reason})") from error
        if not self._is_intact(row):  # the map is of a file that another has replaced since
            raise self._error(row, "and the file has been replaced since")
        log.warning(
            "%s: the stored pixels of %s were damaged; the photo is decoded anew",
            self.file, printable(self._paths[row]),
        )  # fmt: skip

    def _error(self, row: int, cause: str) -> TrainingError:
        return TrainingError(
            f"{self.file}: the stored pixels of {printable(self._paths[row])} are damaged, {cause};"
            f" remove {self.file.parent} and start again; {MOVE_HINT}"
        )
