"""Load training batches, each a pure function of (seed, epoch, batch)."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor

from flowertune.data.device_pixels import DevicePixels
from flowertune.data.transforms import augment, mixup
from flowertune.data.transforms.resize import PixelBatch
from flowertune.runtime.device import send


@dataclass(frozen=True)
class TrainLoader:
    """Training images, their labels and their augmentation.

    labels: on the CPU. sizes: height and width of the stored images on the CPU, for crops; None
    together with `augmentation` None: the stored pixels are the input as they are. mean, std: on
    the device. `batches(epoch)`, from 1, gives the image indices of each batch of an epoch; the
    number of batches is the same for all epochs.
    """

    pixels: DevicePixels
    labels: Int64[Tensor, "n"]
    num_classes: int
    sizes: Int[Tensor, "n 2"] | None
    augmentation: augment.AugmentSettings | None
    mean: Float[Tensor, "3"]
    std: Float[Tensor, "3"]
    batches: Callable[[int], list[Int64[Tensor, "_"]]]
    seed: int

    def __len__(self) -> int:
        return len(self.pixels)

    def load(
        self, batches: Iterable[tuple[int, Int64[Tensor, "_"]]], epoch: int
    ) -> Generator[tuple[Float[Tensor, "_ 3 h w"], Float[Tensor, "_ c"]], None, None]:
        """Yield normalized images and targets, on the device.

        A batch is its number in the epoch, from 0, and its image indices. None is kept here once
        it is given, neither by a name nor by a `zip`, which has its last tuple until the next.
        """
        numbered_batches = list(batches)
        gather = self.pixels.batches if self.augmentation is None else self.pixels.views
        with closing(gather([indices for _, indices in numbered_batches])) as pixel_batches:
            for batch, indices in numbered_batches:
                yield self._build_batch(next(pixel_batches), indices, epoch, batch)

    def _build_batch(
        self, pixels: PixelBatch, indices: Int64[Tensor, "b"], epoch: int, batch: int
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b c"]]:
        labels = send(self.labels[indices], self.pixels.device)
        targets = F.one_hot(labels, self.num_classes).float()
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
