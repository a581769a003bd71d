"""Augmentation: what is drawn for a batch, and the batch it makes on the device.

The parameters are drawn on the CPU from (seed, epoch, step) alone, each kind under a purpose of
its own: switching mixing or color on leaves crops and flips as they were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowertune import seeding
from flowertune.data.transforms import mixup
from flowertune.data.transforms.color_jitter import jitter
from flowertune.data.transforms.resize import Interpolation, Photos, resize_into
from flowertune.runtime.device import send

# Like torchvision's RandomResizedCrop: so many boxes are tried before the center is taken.
CROP_TRIES = 10


@dataclass(frozen=True)
class AugmentSettings:
    """How training photos are varied.

    size: (H, W) of the result. scale: the crop's share of the photo's area, (least, most).
    ratio: the crop's width over height, (least, most). flip: probability of a mirrored photo.
    brightness, contrast, saturation: s draws a factor from [max(0, 1 - s), 1 + s]; 0 is off.
    mixing: MixUp or CutMix; None is off.
    """

    size: tuple[int, int]
    interpolation: Interpolation
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    brightness: float
    contrast: float
    saturation: float
    mixing: mixup.MixSettings | None


@dataclass(frozen=True)
class AugmentParams:
    """Everything random about one batch, on the CPU.

    boxes: (B, 4) int64 top, left, height, width in stored pixels. flips: (B,) bool.
    color: (B, 3) float32 brightness, contrast and saturation factors, or None.
    mixing: for `mix.mix`, or None: this batch is not mixed.
    """

    boxes: Tensor
    flips: Tensor
    color: Tensor | None
    mixing: mixup.MixParams | None


def draw_params(
    recipe: AugmentSettings, sizes: Tensor, seed: int, epoch: int, step: int
) -> AugmentParams:
    """Draw the parameters of one batch.

    sizes: (B, 2) int, height and width of each stored photo, on the CPU.
    """
    count = len(sizes)
    boxes = draw_boxes(
        sizes, recipe.scale, recipe.ratio, seeding.generator(seed, "crop", epoch, step)
    )
    flips = torch.rand(count, generator=seeding.generator(seed, "flip", epoch, step)) < recipe.flip

    color = None
    strengths = torch.tensor([recipe.brightness, recipe.contrast, recipe.saturation])
    if strengths.any():
        uniform = torch.rand(count, 3, generator=seeding.generator(seed, "colour", epoch, step))
        low = (1 - strengths).clamp(min=0)
        color = low + uniform * (1 + strengths - low)

    mixing = None
    if recipe.mixing is not None and epoch <= recipe.mixing.last_epoch:
        mixing = mixup.draw_params(recipe.mixing, count, recipe.size, seed, epoch, step)
    return AugmentParams(boxes, flips, color, mixing)


def draw_boxes(
    sizes: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Random crops as torchvision's RandomResizedCrop draws them, for a whole batch.

    sizes: (B, 2) int, height and width. Returns (B, 4) int64 top, left, height, width.
    The first of ten boxes that fits the photo is taken, else the largest box in the center whose
    ratio is allowed. What is drawn for a photo does not depend on its neighbors' sizes.
    """
    count = len(sizes)
    photo_height, photo_width = sizes.long().unbind(1)
    area = (photo_height * photo_width).double()[:, None]
    uniform = torch.rand(count, CROP_TRIES, 2, generator=generator, dtype=torch.float64)
    target_area = area * (scale[0] + uniform[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + uniform[..., 1] * (high - low))
    tried_width = torch.sqrt(target_area * aspect).round().long()
    tried_height = torch.sqrt(target_area / aspect).round().long()

    fits = (tried_width > 0) & (tried_width <= photo_width[:, None])
    fits &= (tried_height > 0) & (tried_height <= photo_height[:, None])
    first = fits.long().argmax(1, keepdim=True)
    found = fits.any(1)

    widest = (photo_height.double() * ratio[1]).round().long().clamp(min=1)
    tallest = (photo_width.double() / ratio[0]).round().long().clamp(min=1)
    width = torch.where(
        found, tried_width.gather(1, first)[:, 0], torch.minimum(photo_width, widest)
    )
    height = torch.where(
        found, tried_height.gather(1, first)[:, 0], torch.minimum(photo_height, tallest)
    )

    # Whole numbers, so that no rounding can put a box over the edge.
    place = torch.randint(2**40, (count, 2), generator=generator)
    top = torch.where(
        found, place[:, 0] % (photo_height - height + 1), (photo_height - height) // 2
    )
    left = torch.where(found, place[:, 1] % (photo_width - width + 1), (photo_width - width) // 2)
    return torch.stack([top, left, height, width], dim=1)


def apply(
    pixels: Photos,
    drawn: AugmentParams,
    recipe: AugmentSettings,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
) -> Tensor:
    """Crop, resize, flip, vary the colors and normalize; mixing comes after (`mix.mix`).

    pixels: (B, 3, Hc, Wc) uint8 on the device, the photo in the top left corner of its canvas.
    mean, std: (3,), of values in [0, 1]; as tensors on the device they cost no transfer.
    Returns images (B, 3, H, W) float32 on the device.
    """
    out = torch.empty(len(pixels), 3, *recipe.size, device=pixels[0].device)
    color = None if drawn.color is None else send(drawn.color, out.device)
    mean, std = _per_channel(mean, out.device), _per_channel(std, out.device)
    for done in resize_into(out, pixels, drawn.boxes, drawn.flips, recipe.interpolation):
        images = out[done]
        if color is not None:
            images.copy_(jitter(images, color[done]))
        images.sub_(mean).div_(std)
    return out


def normalize(
    pixels: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]
) -> Tensor:
    """Pixels as they are, made ready for the backbone: torchvision's ToTensor and Normalize.

    pixels: (B, 3, H, W) uint8. Returns (B, 3, H, W) float32, bit for bit what those two yield.
    """
    images = pixels.float().div_(255)
    return images.sub_(_per_channel(mean, images.device)).div_(_per_channel(std, images.device))


def _per_channel(values: Tensor | Sequence[float], device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
