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
    """Pixels of one image as they are stored, (3, H, W) and (3, *canvas) uint8, with checksums.

    Also the hash of its file's content, and the true (height, width) of the training pixels.
    Without a training form those are None, 0 and (0, 0).
    """

    sha256: str
    eval_pixels: NDArray[np.uint8]
    eval_crc32: int
    train_pixels: NDArray[np.uint8] | None = None
    train_crc32: int = 0
    train_size: tuple[int, int] = (0, 0)


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
    eval_file: BinaryIO,
    train_file: BinaryIO | None,
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    canvas: tuple[int, int] | None,
    name: str,
    progress: Progress,
) -> StoreIndex:
    """Write one row for each image that decodes, in the order of `paths`; return their index.

    A row is (3, H, W) uint8 in `eval_file`, and (3, *canvas) in `train_file` where there is one:
    the training pixels in the top left corner, the rest zero. Each file is read once.
    """

    def decode_row(path: Path) -> DecodedImage | UnreadableImageError:
        try:
            return _decode_row(path, preprocessing, canvas)
        except UnreadableImageError as error:
            return error

    index = StoreIndex(canvas)
    # Plain writes, not a memory map: a full disk is then an error that can be told, not a SIGBUS.
    with quiet_pil(), closing(parallel_map(decode_row, paths)) as rows:
        for number, row in enumerate(rows):
            if isinstance(row, UnreadableImageError):
                index.bad[number] = str(row)
            else:
                index.kept.append(number)
                index.sha256.append(row.sha256)
                index.eval_crc32.append(row.eval_crc32)
                eval_file.write(row.eval_pixels.data)
                if train_file is not None and row.train_pixels is not None:
                    index.train_sizes.append(row.train_size)
                    index.train_crc32.append(row.train_crc32)
                    train_file.write(row.train_pixels.data)
            progress(f"{name}: decoding photos", number + 1, len(paths))
    return index


def _decode_row(
    path: Path, preprocessing: Preprocessing, canvas: tuple[int, int] | None
) -> DecodedImage:
    data = image_bytes(path)
    image = decode_image(data)
    sha256 = hashlib.sha256(data).hexdigest()
    eval_form = eval_pixels(image, preprocessing)
    eval_crc32 = zlib.crc32(eval_form.data)
    if canvas is None:
        return DecodedImage(sha256, eval_form, eval_crc32)
    train_form = train_pixels(image, preprocessing)
    height, width = train_form.shape[1:]
    if height > canvas[0] or width > canvas[1]:
        raise UnreadableImageError("changed while it was read")
    padded = np.zeros((3, *canvas), dtype=np.uint8)
    padded[:, :height, :width] = train_form
    crc32 = zlib.crc32(padded.data)
    return DecodedImage(sha256, eval_form, eval_crc32, padded, crc32, (height, width))


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
