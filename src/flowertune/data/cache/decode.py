"""Decode images into pixel files: in parallel, in order, in bounded memory."""

import hashlib
import os
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowertune.data.cache.index import StoreIndex
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

# progress(description, done, total)
Progress = Callable[[str, int, int], None]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class DecodedImage:
    """Pixels of one image as they are stored, with a checksum each, and its file's hash.

    `forms` are (3, H, W) and with a training form (3, *canvas) uint8. `train_size` is the true
    (height, width) of the training pixels, (0, 0) where there are none.
    """

    sha256: str
    forms: tuple[NDArray[np.uint8], ...]
    crc32: tuple[int, ...]
    train_size: tuple[int, int]


def train_canvas(
    paths: Sequence[Path], preprocessing: Preprocessing, name: str, progress: Progress
) -> tuple[int, int]:
    """Return the largest height and width among the training pixels of these images."""

    def measure(path: Path) -> tuple[int, int]:
        try:
            return train_size(*upright_size(path), preprocessing)
        except UnreadableImageError:
            return (1, 1)  # the decoding will list it with its reason

    height = width = 1
    with quiet_pil(), closing(parallel_map(measure, paths)) as sizes:
        for done, (image_height, image_width) in enumerate(sizes, start=1):
            height, width = max(height, image_height), max(width, image_width)
            progress(f"{name}: measuring photos", done, len(paths))
    return height, width


def decode_into(
    files: Sequence[BinaryIO],
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    canvas: tuple[int, int] | None,
    name: str,
    progress: Progress,
) -> StoreIndex:
    """Write one row for each image that decodes, in the order of `paths`; return their index.

    A row is (3, H, W) uint8 in the first file and, where there is a `canvas`, (3, *canvas) in the
    second: the training pixels in the top left corner, the rest zero. Each image is read once.
    """

    def decode_row(path: Path) -> DecodedImage | UnreadableImageError:
        try:
            return _decode_row(path, preprocessing, canvas)
        except UnreadableImageError as error:
            return error

    index = StoreIndex(canvas, crc32=[[] for _ in files])
    # Plain writes, not a memory map: a full disk is then an error that can be told, not a SIGBUS.
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
            progress(f"{name}: decoding photos", number + 1, len(paths))
    return index


def _decode_row(
    path: Path, preprocessing: Preprocessing, canvas: tuple[int, int] | None
) -> DecodedImage:
    data = image_bytes(path)
    image = decode_image(data)
    forms, size = [eval_pixels(image, preprocessing)], (0, 0)
    if canvas is not None:
        train_form = train_pixels(image, preprocessing)
        height, width = size = train_form.shape[1:]
        if height > canvas[0] or width > canvas[1]:
            raise UnreadableImageError("changed while it was read")
        padded = np.zeros((3, *canvas), dtype=np.uint8)
        padded[:, :height, :width] = train_form
        forms.append(padded)
    crc32 = tuple(zlib.crc32(form.data) for form in forms)
    return DecodedImage(hashlib.sha256(data).hexdigest(), tuple(forms), crc32, size)


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """Map in order, in a thread for each core, a few items ahead of the consumer at most.

    PIL and hashlib let go of the interpreter's lock while they work. Close it (`closing`) to stop
    at once: what has not begun is dropped.
    """
    num_threads = _available_cores()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 4 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def quiet_pil() -> Iterator[None]:
    """Silence PIL's warnings (damaged EXIF, very large images): the list of bad files says enough.

    To be entered by the thread that starts the others: the filters are the whole process's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use, not what there is
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
