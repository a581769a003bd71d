"""MixUp and CutMix: mix the images of a batch in pairs, and their labels in proportion."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowertune import seeding
from flowertune.runtime.device import GROUP_ON_CPU, send

Kind = Literal["mixup", "cutmix"]
Size = tuple[int, int]


@dataclass(frozen=True)
class MixSettings:
    """MixUp or CutMix, and alpha of Beta(alpha, alpha); `last_epoch`, from 1, still mixes."""

    kind: Kind
    alpha: float
    last_epoch: int


@dataclass(frozen=True)
class MixParams:
    """Random parameters of mixing one batch, on the CPU.

    permutation: each image's partner. lam: the share of the image itself. box: top, left, bottom,
    right of what CutMix takes from the partner; None for MixUp.
    """

    permutation: Int64[Tensor, "b"]
    lam: float
    box: Int64[Tensor, "4"] | None


def draw_params(
    settings: MixSettings, count: int, size: Size, seed: int, epoch: int, step: int
) -> MixParams:
    """Draw the parameters of mixing `count` images of `size` (H, W)."""
    # Random, and not the batch reversed or shifted: those pair photos of one class where a batch is
    # ordered by class.
    generator = seeding.generator(seed, f"{settings.kind} partner", epoch, step)
    permutation = torch.randperm(count, generator=generator)
    lam = draw_lam(settings.kind, settings.alpha, seed, epoch, step)
    if settings.kind == "mixup":
        return MixParams(permutation, lam, None)
    box = cut_box(lam, draw_center(size, seed, epoch, step), size)
    return MixParams(permutation, share_outside(box, size), torch.tensor(box))


def draw_lam(kind: Kind, alpha: float, seed: int, epoch: int, step: int) -> float:
    """Draw the share of the image itself, from Beta(alpha, alpha); one for the whole batch."""
    # NumPy's beta stays defined for very small alpha, where torch's comes out as 0 / 0.
    rng = np.random.default_rng(seeding.derive_seed(seed, f"{kind} coefficient", epoch, step))
    return float(rng.beta(alpha, alpha))


def draw_center(size: Size, seed: int, epoch: int, step: int) -> tuple[int, int]:
    """Draw the row and column of CutMix's center, uniformly over `size` (H, W)."""
    rng = np.random.default_rng(seeding.derive_seed(seed, "cutmix centre", epoch, step))
    row, column = rng.integers(size)
    return int(row), int(column)


def cut_box(lam: float, center: tuple[int, int], size: Size) -> tuple[int, int, int, int]:
    """Compute CutMix's box: top, left, bottom, right, of the image's shape, clipped to its edge.

    Before clipping it covers the share 1 - lam of `size` (H, W), less what rounding takes.
    """
    half = 0.5 * math.sqrt(1 - lam)
    top, left = (max(0, c - int(half * n)) for c, n in zip(center, size, strict=True))
    bottom, right = (min(n, c + int(half * n)) for c, n in zip(center, size, strict=True))
    return top, left, bottom, right


def share_outside(box: tuple[int, int, int, int], size: Size) -> float:
    """Share of an image of `size` (H, W) that lies outside the box, and so stays."""
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / (size[0] * size[1])


def mix_images(
    images: Float[Tensor, "b 3 h w"], targets: Float[Tensor, "b c"], params: MixParams
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b c"]]:
    """Mix every image with its partner, and their targets in the same proportion.

    MixUp blends, lam * itself + (1 - lam) * partner; CutMix pastes one box of the partner, the same
    box in the whole batch. targets: class probabilities. Returns new images and targets; a batch of
    one is left as it is.

    Zhang et al., mixup: Beyond Empirical Risk Minimization, https://arxiv.org/abs/1710.09412.
    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features, https://arxiv.org/abs/1905.04899.
    """
    if len(images) == 1:
        return images, targets
    permutation = send(params.permutation, images.device)
    if params.box is None:
        mixed = _blend(images, permutation, params.lam)
    else:
        # by a mask and not by slices: the shapes on the device do not depend on the box
        top, left, bottom, right = send(params.box, images.device).unbind()
        rows = torch.arange(images.shape[2], device=images.device)[:, None]
        columns = torch.arange(images.shape[3], device=images.device)
        inside = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
        mixed = torch.where(inside, images[permutation], images)
    return mixed, _blend(targets, permutation, params.lam)


def _blend(
    values: Float[Tensor, "b *rest"], permutation: Int64[Tensor, "b"], lam: float
) -> Float[Tensor, "b *rest"]:
    mixed = values * lam
    group_size = GROUP_ON_CPU if values.device.type == "cpu" else len(values)
    for part, indices in zip(mixed.split(group_size), permutation.split(group_size), strict=True):
        part.add_(values.index_select(0, indices), alpha=1 - lam)
    return mixed
