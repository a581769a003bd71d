"""Memory-map the stored pixels of a split, and verify each row when it is first read."""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowertune.data.cache.decode import parallel_map
from flowertune.data.cache_dir import META
from flowertune.errors import TrainingError

ROWS_AT_ONCE = 64  # per task, to verify all rows in threads


class ChecksummedMemmap:
    """Read-only memory map (N, ...) uint8 of a store's file.

    Indexing verifies the rows; `array` is the plain map, for callers that call `verify` first.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], crc32: Sequence[int]) -> None:
        self.file = file
        full_shape = (len(crc32), *shape)
        self.array: NDArray[np.uint8] = (
            np.memmap(file, np.uint8, mode="r", shape=full_shape)
            if crc32
            else np.zeros(full_shape, np.uint8)  # an empty file cannot be mapped
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
        """Verify the rows that this process has not verified yet.

        Raises TrainingError if one is damaged; the next start then rebuilds the store.
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
        """Mark the store as incomplete for the next start; return what the user has to do."""
        store = self.file.parent
        try:
            (store / META).unlink(missing_ok=True)
        except OSError:
            return f"delete {store} and run again"
        return "run again to decode the images again"
