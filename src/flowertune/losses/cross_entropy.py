"""Cross-entropy with class probabilities as targets."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def soft_cross_entropy(
    logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"], label_smoothing: float
) -> Float[Tensor, ""]:
    """Return the mean over the batch of -sum(targets * log softmax(logits)), in float32.

    targets: one distribution per row. Label smoothing s mixes them with the uniform distribution:
    (1 - s) * targets + s / C. One-hot targets give the ordinary cross-entropy.
    """
    return F.cross_entropy(logits.float(), targets.float(), label_smoothing=label_smoothing)


def cross_entropy(
    embedding: Float[Tensor, "b e"],
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    *,
    label_smoothing: float,
) -> dict[str, Float[Tensor, ""]]:
    """Return the cross-entropy as "loss", without further terms."""
    return {"loss": soft_cross_entropy(logits, targets, label_smoothing)}
