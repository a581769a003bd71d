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
    class_weights: Float[Tensor, "c"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Return the mean over the batch of -sum(targets * (1 - p) ** gamma * log p), in float32.

    p is the softmax of the logits. targets: one distribution per row, smoothed as in
    `soft_cross_entropy`, which gamma 0 gives. Class weights (the paper's alpha) act as there.

    Lin et al., Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
    """
    log_p, targets = logits.float().log_softmax(1), targets.float()
    total = None if class_weights is None else (targets @ class_weights).sum()
    targets = torch.lerp(targets, targets.new_full((), 1 / targets.shape[1]), label_smoothing)
    if class_weights is not None:
        targets = targets * class_weights
    weights = (-log_p.expm1()).clamp_min(EPS) ** gamma  # -expm1: 1 - p without cancellation
    per_image = -(targets * weights * log_p).sum(1)
    return {"loss": per_image.mean() if total is None else per_image.sum() / total}
