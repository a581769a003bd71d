"""One form of a split's stored pixels, each row looked at when it is first read."""

import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowertune.data.cache.decode import in_order
from flowertune.data.cache_dir import MOVE_HINT
from flowertune.data.image import UnreadableImageError
from flowertune.errors import TrainingError, printable

ROWS_AT_ONCE = 64  # of one thread that verifies all

log = logging.getLogger(__name__)


class ChecksummedMemmap:
    """(N, ...) uint8 in a memory map. A row whose checksum is wrong is decoded anew.

    To index it is to read rows that are verified; `mapped` is the map as it is, for who calls
    `verify` before. `decode(row)` gives a row's pixels from its photo, or raises
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
        whole = (len(crc32), *shape)
        self.mapped: NDArray[np.uint8] = (
            np.memmap(file, np.uint8, mode="r", shape=whole)
            if crc32
            else np.zeros(whole, np.uint8)  # nothing cannot be mapped
        )
        self._crc32 = crc32
        self._paths = paths
        self._decode = decode
        self._unread = bytearray(b"\1" * len(crc32))

    def __len__(self) -> int:
        return len(self.mapped)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mapped.shape

    @property
    def nbytes(self) -> int:
        return self.mapped.nbytes

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows = np.arange(len(self))[key[0] if isinstance(key, tuple) else key]
        self.verify(np.atleast_1d(rows).tolist())
        pixels: NDArray[np.uint8] = self.mapped[key]
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        self.verify_all()
        return np.array(self.mapped, dtype=dtype, copy=copy)

    def verify(self, rows: Iterable[int]) -> None:
        """Look at the rows that nobody has looked at in this process.

        Raises TrainingError where one is damaged and cannot be mended.
        """
        for row in rows:
            if self._unread[row]:
                if not self._is_intact(row):
                    self._mend(row)
                self._unread[row] = 0

    def verify_all(self) -> None:
        """`verify`, on all cores."""
        parts = np.split(np.arange(len(self)), range(ROWS_AT_ONCE, len(self), ROWS_AT_ONCE))
        for _ in in_order(self.verify, (part.tolist() for part in parts)):
            pass

    def _is_intact(self, row: int) -> bool:
        return zlib.crc32(self.mapped[row].data) == self._crc32[row]

    def _mend(self, row: int) -> None:
        try:
            pixels = self._decode(row)
        except UnreadableImageError as error:
            raise self._lost(row, f"and the photo cannot be decoded anew ({error})") from error
        if zlib.crc32(pixels.data) != self._crc32[row]:
            raise self._lost(row, "and the photo is another one now")
        try:
            with self.file.open("r+b") as file:
                file.seek(row * pixels.nbytes)
                file.write(pixels.data)
        except OSError as error:
            reason = error.strerror or error
            raise self._lost(row, f"and the file cannot be written ({reason})") from error
        if not self._is_intact(row):  # the map is of a file that another has replaced since
            raise self._lost(row, "and the file has been replaced since")
        log.warning(
            "%s: the stored pixels of %s were damaged; the photo is decoded anew",
            self.file, printable(self._paths[row]),
        )  # fmt: skip

    def _lost(self, row: int, why: str) -> TrainingError:
        return TrainingError(
            f"{self.file}: the stored pixels of {printable(self._paths[row])} are damaged, {why}; "
            f"remove {self.file.parent} and start again; {MOVE_HINT}"
        )
