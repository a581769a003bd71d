"""Decode images into pixel files: in parallel, in order, in bounded memory."""

import hashlib
import os
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowertune.data.dataset import Progress
from flowertune.data.image import (
    Preprocessing,
    UnreadableImageError,
    decode_image,
    eval_pixels,
    image_bytes,
    train_pixels,
    train_size,
    upright_size,
)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class StoreIndex:
    """Index of a pixel store; its rows are the readable images, in the order they were listed.

    `canvas` is the (height, width) that fits every training image, `train_sizes[row]` the true
    (height, width) of one; None and (0, 0) without a training form. `kept[row]` is the image's
    index in the list, `bad` maps the other indices to reasons, `sha256[row]` is the hash of the
    file's content, and `crc32[form][row]` the checksum of a row's pixels.
    """

    canvas: tuple[int, int] | None
    crc32: list[list[int]]
    kept: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    sha256: list[str] = field(default_factory=list)
    train_sizes: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> "StoreIndex":
        """Build the index from a store's meta.json. Raises ValueError if a field is missing."""
        try:
            index = cls(**{each.name: meta[each.name] for each in fields(cls)})
            index.bad = {int(number): reason for number, reason in index.bad.items()}
        except (KeyError, AttributeError) as error:
            raise ValueError("its index is damaged") from error
        return index


class _DecodedImage(NamedTuple):
    """One row of each pixel file with its checksum, and the image's part of the index."""

    sha256: str
    train_size: tuple[int, int]
    forms: list[NDArray[np.uint8]]
    crc32: list[int]


def train_canvas(
    paths: Sequence[Path], preprocessing: Preprocessing, name: str, progress: Progress
) -> tuple[int, int]:
    """Return the largest height and width among the training pixels of these images."""

    def measure(path: Path) -> tuple[int, int]:
        try:
            return train_size(*upright_size(path), preprocessing)
        except UnreadableImageError:
            return (1, 1)  # decoding will list it with the reason

    height = width = 1
    with quiet_pil(), closing(parallel_map(measure, paths)) as sizes:
        for done, (image_height, image_width) in enumerate(sizes, start=1):
            height, width = max(height, image_height), max(width, image_width)
            progress(f"{name}: reading image sizes", done, len(paths))
    return height, width


def decode_into(
    files: Sequence[BinaryIO],
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    canvas: tuple[int, int] | None,
    name: str,
    progress: Progress,
) -> StoreIndex:
    """Write one row per readable image, in the order of `paths`; return their index.

    A row is (3, H, W) uint8 in the first file and, with a `canvas`, (3, *canvas) in the second:
    the training pixels in the top left corner, the rest zero. Each image is read once.
    """
    decode_row = partial(_decode_row, preprocessing=preprocessing, canvas=canvas)
    index = StoreIndex(canvas, crc32=[[] for _ in files])
    # Plain writes, not a memory map: a full disk then raises an error instead of a SIGBUS.
    with quiet_pil(), closing(parallel_map(decode_row, paths)) as rows:
        for number, row in enumerate(rows):
            if isinstance(row, UnreadableImageError):
                index.bad[number] = str(row)
            else:
                index.kept.append(number)
                index.sha256.append(row.sha256)
                index.train_sizes.append(row.train_size)
                for file, pixels, sums, crc32 in zip(
                    files, row.forms, index.crc32, row.crc32, strict=True
                ):
                    file.write(pixels.data)
                    sums.append(crc32)
            progress(f"{name}: decoding images", number + 1, len(paths))
    return index


def _decode_row(
    path: Path, preprocessing: Preprocessing, canvas: tuple[int, int] | None
) -> _DecodedImage | UnreadableImageError:
    try:
        data = image_bytes(path)
        image = decode_image(data)
        forms, size = [eval_pixels(image, preprocessing)], (0, 0)
    except UnreadableImageError as error:
        return error
    if canvas is not None:
        train_form = train_pixels(image, preprocessing)
        height, width = size = train_form.shape[1:]
        if height > canvas[0] or width > canvas[1]:
            return UnreadableImageError("changed while it was read")
        padded = np.zeros((3, *canvas), dtype=np.uint8)
        padded[:, :height, :width] = train_form
        forms.append(padded)
    crc32 = [zlib.crc32(form.data) for form in forms]
    return _DecodedImage(hashlib.sha256(data).hexdigest(), size, forms, crc32)


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int | None = None,
    ahead: int | None = None,
) -> Generator[Result, None, None]:
    """Map in order, in threads (default: one per core), at most `ahead` items before the consumer.

    `ahead` defaults to four per thread. PIL and hashlib release the GIL while they work. Close the
    generator (`closing`) to stop at once; items that have not started are dropped.
    """
    num_threads = num_threads or _available_cores()
    ahead = ahead or 4 * num_threads
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="photos")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def quiet_pil() -> Iterator[None]:
    """Silence PIL's warnings (damaged EXIF, very large images); unreadable images are listed.

    Enter it in the thread that starts the others: warning filters apply to the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: only the cores that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
