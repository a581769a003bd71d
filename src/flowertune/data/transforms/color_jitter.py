"""Color jitter on a batch, each image with its own factors."""

import torch
from jaxtyping import Float
from torch import Tensor

# The luma weights of ITU-R BT.601, with the digits that torchvision uses.
LUMA = (0.2989, 0.587, 0.114)


def jitter(
    images: Float[Tensor, "b 3 h w"], factors: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 3 h w"]:
    """Scale brightness, then contrast, then saturation; a factor of 1 changes nothing.

    images: in [0, 1]; factors: in that order, on the same device. Returns new images in [0, 1].

    Each step is torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation`;
    the order is fixed, where torchvision's ColorJitter shuffles it.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp_(0, 1)
    mean_gray = _gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = _blend(images, mean_gray, contrast)
    return _blend(images, _gray(images), saturation)


def _gray(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _blend(
    images: Float[Tensor, "b 3 h w"],
    other: Float[Tensor, "b _ _ _"],
    factor: Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, "b 3 h w"]:
    return torch.lerp(other, images, factor).clamp_(0, 1)
