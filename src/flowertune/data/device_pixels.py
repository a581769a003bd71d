"""Which photos make which batch, and their pixels on the device."""

import warnings
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowertune.data.cache.memmap import ChecksummedMemmap
from flowertune.runtime.device import send

Residency = Literal["auto", "device", "stream"]

READ_AHEAD = 2  # batches; one lies ready while the next is read


def are_resident(residency: Residency, total_bytes: int, device: torch.device) -> bool:
    """Whether all pixels of a run, `total_bytes` together, are kept on the device.

    "auto" keeps them on the CPU, and on a device of its own where they take at most half of the
    memory that is free there now. To be asked once a run, before anything is put there: each store
    by itself would find half of what the others left.
    """
    if residency != "auto":
        return residency == "device"
    return device.type == "cpu" or 2 * total_bytes <= free_memory(device)


class DevicePixels:
    """The pixels of a data set, from which batches are gathered onto a device.

    `resident`: the pixels are moved there once, where on the CPU the memory map is used as it is.
    Else each batch is read from the map while the device works on those before it. No result
    depends on it. Stored rows are verified when they are first read; their TrainingError comes
    out of every method, and of the constructor where all are read.
    """

    def __init__(
        self,
        pixels: ChecksummedMemmap | npt.NDArray[np.uint8],
        device: torch.device,
        *,
        resident: bool,
    ) -> None:
        self.device = device
        self.resident = resident
        self._stored = pixels if isinstance(pixels, ChecksummedMemmap) else None
        self.mapped = pixels.mapped if isinstance(pixels, ChecksummedMemmap) else pixels
        if self._stored is not None and resident and device.type != "cpu":
            self._stored.verify_all()
            self._stored = None
        self._pixels = _tensor_of(self.mapped).to(device) if resident else None

    def __len__(self) -> int:
        return len(self.mapped)

    def batches(self, indices: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """For each indices (B,) int64 on the CPU its photos: (B, ...) uint8 on the device, copies.

        Streamed ones are read in a thread of their own, up to `READ_AHEAD` batches early; it and
        they last until the end, or until it is closed.
        """
        if self._pixels is not None:
            for each in indices:
                self._verify(each)
                yield self._pixels.index_select(0, send(each, self.device))
            return
        with ThreadPoolExecutor(1, thread_name_prefix="photos") as reader:
            ahead: deque[Future[Tensor]] = deque()
            try:
                for each in indices:
                    ahead.append(reader.submit(self._read, each))
                    if len(ahead) > READ_AHEAD:
                        yield self._sent(ahead.popleft().result())
                while ahead:
                    yield self._sent(ahead.popleft().result())
            finally:
                for batch in ahead:
                    batch.cancel()

    def photos(self, indices: Iterable[Tensor]) -> Generator[Tensor | list[Tensor], None, None]:
        """As `batches`, for who takes only a part of each photo and writes to none.

        On the CPU the photos are not copied: a list of (...) uint8 that lie in the memory map.
        """
        if self._pixels is None or self.device.type != "cpu":
            yield from self.batches(indices)
            return
        for each in indices:
            self._verify(each)
            yield [self._pixels[place] for place in each.tolist()]

    def _verify(self, indices: Tensor) -> None:
        if self._stored is not None:
            self._stored.verify(indices.tolist())

    def _read(self, indices: Tensor) -> Tensor:
        """By NumPy, in one thread: torch would start as many again as compute beside it."""
        if not all(0 <= photo < len(self.mapped) for photo in indices.tolist()):
            raise IndexError(f"not all of {indices.tolist()} are below {len(self.mapped)}")
        self._verify(indices)
        batch = torch.empty(
            len(indices),
            *self.mapped.shape[1:],
            dtype=torch.uint8,
            pin_memory=self.device.type == "cuda",
        )
        # "clip" clips nothing now; by default NumPy fills a buffer first, and `out` from that
        np.take(self.mapped, indices.numpy(), axis=0, out=batch.numpy(), mode="clip")
        return batch

    def _sent(self, batch: Tensor) -> Tensor:
        # Queued behind the kernels, as `send` has it; torch keeps pinned memory until it is done.
        return batch.to(self.device, non_blocking=self.device.type == "cuda")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on an accelerator."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free, _ = torch.cuda.mem_get_info(device)
    return free


def _tensor_of(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """A tensor over the array's own memory."""
    with warnings.catch_warnings():
        # A map that is open for reading only may not be written to, and torch has no read-only
        # tensors. Nobody writes: `batches` copies, and `photos` is for readers.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)
