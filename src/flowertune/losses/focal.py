"""Focal loss for several classes and soft targets."""

import torch
from jaxtyping import Float
from torch import Tensor

# Smallest base of the power, whose slope at 0 is infinite for a gamma below 1.
EPS = torch.finfo(torch.float32).tiny


def focal(
    embedding: Float[Tensor, "b e"],
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    *,
    gamma: float,
    label_smoothing: float,
) -> dict[str, Float[Tensor, ""]]:
    """Return the mean over the batch of -sum(targets * (1 - p) ** gamma * log p), in float32.

    p is the softmax of the logits. targets: one distribution per row, smoothed as in
    `soft_cross_entropy`, which gamma 0 gives. All classes have the same weight (alpha is 1).

    Lin et al., Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
    """
    log_p = logits.float().log_softmax(1)
    targets = torch.lerp(
        targets.float(), targets.new_full((), 1 / targets.shape[1]), label_smoothing
    )
    weights = (-log_p.expm1()).clamp_min(EPS) ** gamma  # -expm1: 1 - p without cancellation
    return {"loss": -(targets * weights * log_p).sum(1).mean()}
