"""Gather batches of uint8 pixels onto the device."""

import warnings
from collections.abc import Generator, Iterable
from contextlib import closing

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from flowertune.data.cache.decode import parallel_map
from flowertune.data.cache.memmap import ChecksummedMemmap
from flowertune.data.transforms.resize import PixelBatch
from flowertune.runtime.device import send

READ_AHEAD = 2  # batches; one is ready while the next is being read


def are_resident(residency: str, total_bytes: int, device: torch.device) -> bool:
    """Decide whether to keep all pixels of a run, `total_bytes` in total, on the device.

    "auto" keeps them on the CPU, and on an accelerator if they need at most half of its free
    memory. Call it once per run, before anything is on the device: asked for each store, it would
    compare with half of what the others left free.
    """
    if residency != "auto":
        return residency == "device"
    return device.type == "cpu" or 2 * total_bytes <= free_memory(device)


class DevicePixels:
    """The pixels of a dataset, gathered in batches onto a device.

    If `resident`, all pixels are moved to the device once; on the CPU the memory map itself is
    used. Otherwise each batch is read from the map while the device works on earlier ones. Results
    do not depend on it. Stored rows are verified when first read: a damaged one raises
    TrainingError from any method, or from the constructor if that reads all rows.
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
        self._memmap = pixels if isinstance(pixels, ChecksummedMemmap) else None
        self.array = pixels.array if isinstance(pixels, ChecksummedMemmap) else pixels
        if self._memmap is not None and resident and device.type != "cpu":
            self._memmap.verify_all()
            self._memmap = None
        self._tensor = _as_tensor(self.array).to(device) if resident else None

    def __len__(self) -> int:
        return len(self.array)

    def batches(
        self, index_batches: Iterable[Int64[Tensor, "_"]]
    ) -> Generator[UInt8[Tensor, "_ ..."], None, None]:
        """Yield batches on the device; indices are on the CPU.

        If not resident, a thread reads up to `READ_AHEAD` batches ahead, until the generator ends
        or is closed.
        """
        if self._tensor is not None:
            for indices in index_batches:
                self._verify(indices)
                yield self._tensor.index_select(0, send(indices, self.device))
            return
        gathered = parallel_map(self._gather, index_batches, num_threads=1, ahead=READ_AHEAD + 1)
        with closing(gathered):
            # `map`, because a loop variable would keep a reference to a yielded batch
            yield from map(self._to_device, gathered)

    def views(
        self, index_batches: Iterable[Int64[Tensor, "_"]]
    ) -> Generator[PixelBatch, None, None]:
        """Yield batches like `batches`, read-only, for callers that use only part of each image.

        On the CPU the images are views of the memory map, not copies.
        """
        if self._tensor is None or self.device.type != "cpu":
            yield from self.batches(index_batches)
            return
        for indices in index_batches:
            self._verify(indices)
            yield [self._tensor[index] for index in indices.tolist()]

    def _verify(self, indices: Int64[Tensor, "b"]) -> None:
        if self._memmap is not None:
            self._memmap.verify(indices.tolist())

    def _gather(self, indices: Int64[Tensor, "b"]) -> UInt8[Tensor, "b ..."]:
        """Gather with NumPy in one thread; torch would start as many threads as compute uses."""
        if not all(0 <= index < len(self.array) for index in indices.tolist()):
            raise IndexError(f"{indices.tolist()}: must all be in [0, {len(self.array)})")
        self._verify(indices)
        shape, pinned = (len(indices), *self.array.shape[1:]), self.device.type == "cuda"
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        # nothing is left to clip, but NumPy's default mode would copy through a buffer
        np.take(self.array, indices.numpy(), axis=0, out=batch.numpy(), mode="clip")
        return batch

    def _to_device(self, batch: UInt8[Tensor, "b ..."]) -> UInt8[Tensor, "b ..."]:
        # Queued behind the kernels, like `send`; torch keeps pinned memory until the copy is done.
        return batch.to(self.device, non_blocking=self.device.type == "cuda")


def free_memory(device: torch.device) -> int:
    """Return the free memory of an accelerator in bytes."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free, _ = torch.cuda.mem_get_info(device)
    return free


def _as_tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # torch has no read-only tensors and warns about a read-only map. Nothing writes to it:
        # `batches` copies, and callers of `views` only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)
