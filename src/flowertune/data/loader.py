"""The training batches, each a pure function of (seed, epoch, batch)."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from flowertune.data.cache.dataset import CachedSplit
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.transforms import augment, mixup
from flowertune.data.transforms.resize import Photos
from flowertune.runtime.device import send


@dataclass(frozen=True)
class TrainLoader:
    """Photos, labels and how they are varied.

    labels: (N,) int64 on the CPU. sizes: (N, 2) height and width of the stored photos on the CPU,
    for crops; None together with `recipe` None: the stored pixels are the input as they are.
    mean, std: (3,) on the device. `batches(epoch)`, from 1, gives the photo indices (B,) of each
    batch of an epoch; the number of batches is the same for all epochs.
    """

    pixels: DevicePixels
    labels: Tensor
    classes: int
    sizes: Tensor | None
    recipe: augment.AugmentSettings | None
    mean: Tensor
    std: Tensor
    batches: Callable[[int], list[Tensor]]
    seed: int

    def __len__(self) -> int:
        return len(self.pixels)

    def load(
        self, batches: Iterable[tuple[int, Tensor]], epoch: int
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Images (B, 3, H, W) normalized and targets (B, C) of each batch, float32 on the device.

        A batch is its number in the epoch, from 0, and its photo indices (B,). None is kept here
        once it is given, neither by a name nor by a `zip`, which has its last tuple until the next.
        """
        numbered = list(batches)
        wanted = [indices for _, indices in numbered]
        gather = self.pixels.batches if self.recipe is None else self.pixels.photos
        with closing(gather(wanted)) as gathered:
            for batch, indices in numbered:
                yield self._made(next(gathered), indices, epoch, batch)

    def _made(
        self, photos: Photos, indices: Tensor, epoch: int, batch: int
    ) -> tuple[Tensor, Tensor]:
        targets = mixup.soft_targets(send(self.labels[indices], self.pixels.device), self.classes)
        if self.recipe is None:
            assert isinstance(photos, Tensor)
            return augment.normalize(photos, self.mean, self.std), targets
        assert self.sizes is not None
        drawn = augment.draw_params(self.recipe, self.sizes[indices], self.seed, epoch, batch)
        images = augment.apply(photos, drawn, self.recipe, self.mean, self.std)
        return (
            (images, targets) if drawn.mixing is None else mixup.mix(images, targets, drawn.mixing)
        )


def build_train_loader(
    stored: CachedSplit,
    evaluation: DevicePixels,
    classes: int,
    recipe: augment.AugmentSettings | None,
    mean: Tensor,
    std: Tensor,
    batches: Callable[[int], list[Tensor]],
    seed: int,
) -> TrainLoader:
    """The photos of `stored`: their training form on the device, or `evaluation` without one.

    evaluation: the split's evaluation pixels; those of the training form are kept where they are.
    """
    pixels, sizes = evaluation, None
    if stored.train_pixels is not None and stored.train_sizes is not None:
        pixels = DevicePixels(stored.train_pixels, evaluation.device, resident=evaluation.resident)
        sizes = torch.from_numpy(stored.train_sizes)
    return TrainLoader(
        pixels=pixels,
        labels=torch.tensor(stored.split.labels),
        classes=classes,
        sizes=sizes,
        recipe=recipe,
        mean=mean,
        std=std,
        batches=batches,
        seed=seed,
    )
