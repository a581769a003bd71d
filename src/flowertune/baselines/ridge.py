"""Solve for a linear probe's weights by ridge regression, in closed form."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def ridge(
    features: Float[Tensor, "n e"],
    labels: Int64[Tensor, "n"],
    classes: int,
    weight_decay: float,
    start: Float[Tensor, "w"],
) -> tuple[Float[Tensor, "w"], None]:
    """Minimize the mean of |features @ weight.T + bias - onehot|^2, + weight_decay * |weight|^2.

    The bias is not decayed. The sums are no log-odds: their order means something, the
    probabilities made of them little. Hoerl and Kennard 1970.
    """
    targets = F.one_hot(labels, classes).to(features)
    bias = targets.mean(0)  # apart from the weights, as standardized features have the mean 0
    gram = features.T @ features / len(features)
    gram.diagonal().add_(weight_decay)
    weight = torch.linalg.solve(gram, features.T @ (targets - bias) / len(features)).T
    return torch.cat([weight.flatten(), bias]), None
