"""Cross-entropy against class probabilities."""

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Mean over the batch of -sum(targets * log softmax(logits)), in float32: a scalar.

    logits: (B, C); targets: (B, C), each row a distribution. Label smoothing s mixes the targets
    with the uniform distribution: (1 - s) * targets + s / C. With one-hot targets this is the
    ordinary cross-entropy.
    """
    return F.cross_entropy(logits.float(), targets.float(), label_smoothing=label_smoothing)


def cross_entropy(
    embedding: Tensor, logits: Tensor, targets: Tensor, *, label_smoothing: float
) -> dict[str, Tensor]:
    """Compute the cross-entropy alone."""
    return {"loss": soft_cross_entropy(logits, targets, label_smoothing)}
