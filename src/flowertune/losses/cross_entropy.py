"""Cross-entropy with class probabilities as targets."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def soft_cross_entropy(
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    label_smoothing: float,
    class_weights: Float[Tensor, "c"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean over the batch of -sum(targets * log softmax(logits)), in float32.

    targets: one distribution per row. Label smoothing s mixes them with the uniform distribution:
    (1 - s) * targets + s / C. One-hot targets give the ordinary cross-entropy.

    With class weights w, each term of the sum is weighted, and the sum over the batch is divided by
    sum(targets * w). One-hot targets give torch's weighted cross-entropy of labels.
    """
    targets = targets.float()
    if class_weights is None:
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    total = F.cross_entropy(
        logits.float(), targets, class_weights, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (targets @ class_weights).sum()


def cross_entropy(
    embedding: Float[Tensor, "b e"],
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    *,
    label_smoothing: float,
    class_weights: Float[Tensor, "c"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Return the cross-entropy as "loss", without further terms."""
    return {"loss": soft_cross_entropy(logits, targets, label_smoothing, class_weights)}
