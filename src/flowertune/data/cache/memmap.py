"""Stored pixels of a split in a memory map, each row verified when it is first read."""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowertune.data.cache.decode import parallel_map
from flowertune.data.cache_dir import META
from flowertune.errors import TrainingError

ROWS_AT_ONCE = 64  # of one thread that verifies all


class ChecksummedMemmap:
    """Memory map (N, ...) uint8 of a store's file, for reading.

    Indexing verifies the rows; `array` is the map as it is, for callers that call `verify` before.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], crc32: Sequence[int]) -> None:
        self.file = file
        full_shape = (len(crc32), *shape)
        self.array: NDArray[np.uint8] = (
            np.memmap(file, np.uint8, mode="r", shape=full_shape)
            if crc32
            else np.zeros(full_shape, np.uint8)  # nothing cannot be mapped
        )
        self._crc32 = crc32
        self._unread = bytearray(b"\1" * len(crc32))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows = np.arange(len(self))[key[0] if isinstance(key, tuple) else key]
        self.verify(np.atleast_1d(rows).tolist())
        pixels: NDArray[np.uint8] = self.array[key]
        return pixels

    def verify(self, rows: Iterable[int]) -> None:
        """Verify the rows that were not yet verified in this process.

        Raises TrainingError where one is damaged; the next start then makes the store anew.
        """
        for row in rows:
            if self._unread[row] and zlib.crc32(self.array[row].data) != self._crc32[row]:
                raise TrainingError(f"{self.file}: stored pixels are damaged; {self._give_up()}")
            self._unread[row] = 0

    def verify_all(self) -> None:
        """Verify all rows, on all cores."""
        parts = np.split(np.arange(len(self)), range(ROWS_AT_ONCE, len(self), ROWS_AT_ONCE))
        for _ in parallel_map(self.verify, (part.tolist() for part in parts)):
            pass

    def _give_up(self) -> str:
        """Make the store one that no start takes for whole; return what is left to be done."""
        store = self.file.parent
        try:
            (store / META).unlink(missing_ok=True)
        except OSError:
            return f"remove {store} and start again"
        return "start again: the photos are then decoded anew"
