"""Which photos make which batch, and their pixels on the device."""

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowertune import draws


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits `count` photos: (count,) int64, a permutation."""
    return torch.randperm(count, generator=draws.generator(seed, "order", epoch))


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The batches of an epoch: (B,) int64 photo indices each, every photo exactly once.

    The last batch is smaller where `batch_size` does not divide `count`.
    """
    order = epoch_order(count, seed, epoch)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`, without waiting for the work that is queued there."""
    if device.type == "cuda":
        # Only from pinned memory does the copy run beside the kernels.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class PixelStore:
    """The pixels of a data set, from which batches are gathered onto a device.

    On the CPU the memory map is used as it is. On another device the pixels are moved there once
    if they take at most half of its free memory; otherwise each batch is read from the map and
    sent. `resident` says whether the pixels live on the device.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], device: torch.device) -> None:
        self.device = device
        self.resident = device.type == "cpu" or 2 * pixels.nbytes <= free_memory(device)
        mapped = _tensor_of(pixels)
        self._pixels = mapped.to(device) if self.resident else mapped

    def __len__(self) -> int:
        return len(self._pixels)

    def gather(self, indices: Tensor) -> Tensor:
        """The photos at `indices` (B,) int64, on the CPU: (B, ...) uint8 on the device, a copy."""
        if self.resident:
            return self._pixels.index_select(0, send(indices, self.device))
        pinned = self.device.type == "cuda"
        batch = torch.empty(
            len(indices), *self._pixels.shape[1:], dtype=torch.uint8, pin_memory=pinned
        )
        torch.index_select(self._pixels, 0, indices, out=batch)
        return batch.to(self.device, non_blocking=pinned)


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
        # tensors. The store never hands this tensor out, and gathering copies.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)
