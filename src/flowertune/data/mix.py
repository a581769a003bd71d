"""MixUp: batches of photos blended in pairs, their labels in the same proportion."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowertune import draws
from flowertune.data.batches import send


def draw_partner(count: int, seed: int, epoch: int, step: int) -> Tensor:
    """With which photo of the batch each is blended: (count,) int64, a random permutation.

    Random, and not the batch reversed or shifted: those pair photos of one class where a batch is
    ordered by class.
    """
    return torch.randperm(count, generator=draws.generator(seed, "mixup partner", epoch, step))


def draw_coefficient(alpha: float, seed: int, epoch: int, step: int) -> float:
    """The share of the photo itself, from Beta(alpha, alpha); one for the whole batch."""
    # NumPy's beta stays defined for very small alpha, where torch's comes out as 0 / 0.
    rng = np.random.default_rng(draws.derive_seed(seed, "mixup coefficient", epoch, step))
    return float(rng.beta(alpha, alpha))


def soft_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B,) int64 as certain class probabilities: (B, C) float32."""
    return F.one_hot(labels, num_classes).float()


def mix(
    images: Tensor, targets: Tensor, partner: Tensor, coefficient: float
) -> tuple[Tensor, Tensor]:
    """Blend every photo with its partner: coefficient * itself + (1 - coefficient) * partner.

    images: (B, 3, H, W) float; targets: (B, C) class probabilities; partner: (B,) int64, on the
    CPU. Returns new images and targets of the same shapes. A batch of one is left as it is.

    Zhang et al., mixup: Beyond Empirical Risk Minimization, https://arxiv.org/abs/1710.09412.
    """
    if len(images) == 1:
        return images, targets
    partner = send(partner, images.device)
    return _blend(images, partner, coefficient), _blend(targets, partner, coefficient)


def _blend(values: Tensor, partner: Tensor, coefficient: float) -> Tensor:
    return (values * coefficient).add_(values[partner], alpha=1 - coefficient)
