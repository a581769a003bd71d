"""Load training batches, each a pure function of (seed, epoch, batch)."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from flowertune.data.cache.store import CachedSplit
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.transforms import augment, mixup
from flowertune.data.transforms.resize import PixelBatch
from flowertune.runtime.device import send


@dataclass(frozen=True)
class TrainLoader:
    """Training images, their labels and their augmentation.

    labels: (N,) int64 on the CPU. sizes: (N, 2) height and width of the stored images on the CPU,
    for crops; None together with `augmentation` None: the stored pixels are the input as they are.
    mean, std: (3,) on the device. `batches(epoch)`, from 1, gives the image indices (B,) of each
    batch of an epoch; the number of batches is the same for all epochs.
    """

    pixels: DevicePixels
    labels: Tensor
    num_classes: int
    sizes: Tensor | None
    augmentation: augment.AugmentSettings | None
    mean: Tensor
    std: Tensor
    batches: Callable[[int], list[Tensor]]
    seed: int

    def __len__(self) -> int:
        return len(self.pixels)

    def load(
        self, batches: Iterable[tuple[int, Tensor]], epoch: int
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield images (B, 3, H, W), normalized, and targets (B, C), float32 on the device.

        A batch is its number in the epoch, from 0, and its image indices (B,). None is kept here
        once it is given, neither by a name nor by a `zip`, which has its last tuple until the next.
        """
        numbered_batches = list(batches)
        gather = self.pixels.batches if self.augmentation is None else self.pixels.views
        with closing(gather([indices for _, indices in numbered_batches])) as pixel_batches:
            for batch, indices in numbered_batches:
                yield self._build_batch(next(pixel_batches), indices, epoch, batch)

    def _build_batch(
        self, pixels: PixelBatch, indices: Tensor, epoch: int, batch: int
    ) -> tuple[Tensor, Tensor]:
        labels = send(self.labels[indices], self.pixels.device)
        targets = mixup.soft_targets(labels, self.num_classes)
        if self.augmentation is None:
            assert isinstance(pixels, Tensor)
            return augment.normalize(pixels, self.mean, self.std), targets
        assert self.sizes is not None
        sizes = self.sizes[indices]
        params = augment.draw_params(self.augmentation, sizes, self.seed, epoch, batch)
        images = augment.apply(pixels, params, self.augmentation, self.mean, self.std)
        if params.mixing is None:
            return images, targets
        return mixup.mix_images(images, targets, params.mixing)


def build_train_loader(
    cached: CachedSplit,
    fallback: DevicePixels,
    num_classes: int,
    augmentation: augment.AugmentSettings | None,
    mean: Tensor,
    std: Tensor,
    batches: Callable[[int], list[Tensor]],
    seed: int,
) -> TrainLoader:
    """Build the loader of a split from its training pixels, or `fallback` where it has none.

    fallback: the split's evaluation pixels; those of the training form are kept where they are.
    """
    pixels, sizes = fallback, None
    if cached.train_pixels is not None and cached.train_sizes is not None:
        pixels = DevicePixels(cached.train_pixels, fallback.device, resident=fallback.resident)
        sizes = torch.from_numpy(cached.train_sizes)
    labels = torch.tensor(cached.split.labels)
    return TrainLoader(pixels, labels, num_classes, sizes, augmentation, mean, std, batches, seed)
