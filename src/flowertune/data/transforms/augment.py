"""Augment training batches: draw the parameters, apply them on the device.

The parameters are drawn on the CPU from (seed, epoch, step) alone, each kind under a purpose of
its own: switching mixing or color on leaves crops and flips as they were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from flowertune import seeding
from flowertune.data.transforms import mixup
from flowertune.data.transforms.resize import Interpolation, PixelBatch, resize_into
from flowertune.runtime.device import send

# Like torchvision's RandomResizedCrop: so many boxes are tried before the center is taken.
CROP_TRIES = 10
# The luma weights of ITU-R BT.601, with the digits that torchvision uses.
LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation of training images.

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
    """Random parameters of one batch, on the CPU.

    boxes: top, left, height, width in stored pixels. color: brightness, contrast and saturation
    factors. mixing: None where this batch is not mixed.
    """

    boxes: Int64[Tensor, "b 4"]
    flips: Bool[Tensor, "b"]
    color: Float[Tensor, "b 3"] | None
    mixing: mixup.MixParams | None


def draw_params(
    settings: AugmentSettings, sizes: Int[Tensor, "b 2"], seed: int, epoch: int, step: int
) -> AugmentParams:
    """Draw the parameters of one batch; `sizes` are its stored images' (height, width)."""
    count = len(sizes)
    generator = seeding.generator(seed, "crop", epoch, step)
    boxes = draw_boxes(sizes, settings.scale, settings.ratio, generator)
    generator = seeding.generator(seed, "flip", epoch, step)
    flips = torch.rand(count, generator=generator) < settings.flip

    color = None
    strengths = torch.tensor([settings.brightness, settings.contrast, settings.saturation])
    if strengths.any():
        uniform = torch.rand(count, 3, generator=seeding.generator(seed, "colour", epoch, step))
        low = (1 - strengths).clamp(min=0)
        color = low + uniform * (1 + strengths - low)

    mixing = None
    if settings.mixing is not None and epoch <= settings.mixing.last_epoch:
        mixing = mixup.draw_params(settings.mixing, count, settings.size, seed, epoch, step)
    return AugmentParams(boxes, flips, color, mixing)


def draw_boxes(
    sizes: Int[Tensor, "b 2"],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Int64[Tensor, "b 4"]:
    """Draw random crops like torchvision's RandomResizedCrop, for a whole batch.

    sizes: height and width. Returns top, left, height, width.
    The first of ten boxes that fits the photo is taken, else the largest box in the center whose
    ratio is allowed. What is drawn for a photo does not depend on its neighbors' sizes.
    """
    count, sizes = len(sizes), sizes.long()
    area = sizes.prod(1).double()[:, None]
    uniform = torch.rand(count, CROP_TRIES, 2, generator=generator, dtype=torch.float64)
    target_area = area * (scale[0] + uniform[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + uniform[..., 1] * (high - low))
    squares = torch.stack([target_area / aspect, target_area * aspect], dim=-1)
    candidates = squares.sqrt().round().long()
    fits = ((candidates > 0) & (candidates <= sizes[:, None])).all(-1)
    has_fit = fits.any(1, keepdim=True)
    first = candidates[torch.arange(count), fits.long().argmax(1)]

    height, width = sizes.double().unbind(1)
    largest = torch.stack([width / ratio[0], height * ratio[1]], dim=1).round().long().clamp(min=1)
    box = torch.where(has_fit, first, torch.minimum(sizes, largest))

    # Whole numbers, so that no rounding can put a box over the edge.
    offset = torch.randint(2**40, (count, 2), generator=generator)
    room = sizes - box
    corner = torch.where(has_fit, offset % (room + 1), room // 2)
    return torch.cat([corner, box], dim=1)


def apply(
    pixels: PixelBatch,
    params: AugmentParams,
    settings: AugmentSettings,
    mean: Float[Tensor, "3"] | Sequence[float],
    std: Float[Tensor, "3"] | Sequence[float],
) -> Float[Tensor, "b 3 h w"]:
    """Crop, resize, flip, jitter the colors and normalize; mixing comes after (`mixup.mix_images`).

    pixels: on the device, each image in the top left corner of its canvas. mean, std: of values in
    [0, 1]; as tensors on the device they cost no transfer. Returns images on the device.
    """
    out = torch.empty(len(pixels), 3, *settings.size, device=pixels[0].device)
    color = None if params.color is None else send(params.color, out.device)
    mean, std = _per_channel(mean, out.device), _per_channel(std, out.device)
    for group in resize_into(out, pixels, params.boxes, params.flips, settings.interpolation):
        images = out[group]
        if color is not None:
            images.copy_(jitter(images, color[group]))
        images.sub_(mean).div_(std)
    return out


def jitter(
    images: Float[Tensor, "b 3 h w"], factors: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 3 h w"]:
    """Scale brightness, then contrast, then saturation of each image by its own factors.

    images: in [0, 1]; factors: in that order, 1 changes nothing. Returns new images in [0, 1].
    Each step is torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation`; the
    order is fixed, where torchvision's ColorJitter shuffles it.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp_(0, 1)
    mean_gray = _gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = torch.lerp(mean_gray, images, contrast).clamp_(0, 1)
    return torch.lerp(_gray(images), images, saturation).clamp_(0, 1)


def _gray(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def normalize(
    pixels: UInt8[Tensor, "b 3 h w"],
    mean: Float[Tensor, "3"] | Sequence[float],
    std: Float[Tensor, "3"] | Sequence[float],
) -> Float[Tensor, "b 3 h w"]:
    """Normalize pixels, bit for bit as torchvision's ToTensor and Normalize do."""
    images = pixels.float().div_(255)
    return images.sub_(_per_channel(mean, images.device)).div_(_per_channel(std, images.device))


def _per_channel(
    values: Float[Tensor, "3"] | Sequence[float], device: torch.device
) -> Float[Tensor, "3 1 1"]:
    return torch.as_tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
