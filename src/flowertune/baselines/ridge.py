"""Solve for a linear probe's weights by ridge regression, in closed form."""

import torch
import torch.nn.functional as F

from flowertune.baselines.linear_probe import Problem, Vector


def ridge(problem: Problem, weight_decay: float, start: Vector) -> tuple[Vector, None]:
    """Minimize the mean of |features @ weight.T + bias - onehot|^2, + weight_decay * |weight|^2.

    The bias is not decayed. The sums are no log-odds: their order means something, the
    probabilities made of them little. Hoerl and Kennard 1970.
    """
    features = problem.features
    targets = F.one_hot(problem.labels, problem.classes).to(features)
    bias = targets.mean(0)  # apart from the weights, as standardized features have the mean 0
    gram = features.T @ features / len(features)
    gram.diagonal().add_(weight_decay)
    weight = torch.linalg.solve(gram, features.T @ (targets - bias) / len(features)).T
    return torch.cat([weight.flatten(), bias]), None
