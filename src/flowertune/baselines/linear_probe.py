"""Fit a linear probe: multinomial logistic regression on frozen features."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Standardized features (N, E) float64, labels (N,) int64, the number of classes, a weight decay and
# a solution to begin from -> a solution: weight (C, E) and bias (C,) in one vector, as `unpack`
# takes it, and why the solution was not reached, else None.
Solve = Callable[[Tensor, Tensor, int, float, Tensor], tuple[Tensor, str | None]]

# The strengths of the L2 penalty that validation chooses from, strongest first: each solution is
# where the search for the next begins. Seen: 1e-2 is best for DeiT-Tiny on Flowers-17, 40 a class.
WEIGHT_DECAYS = (1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# Multiply-adds of one pass, N * E * C, below which a second thread costs more than it gives
# (and much more than that on a machine that others use too).
MIN_PARALLEL_WORK = 100_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeInputs:
    """What a probe is fitted on: features (N, E), labels (N,) integers below `classes`.

    The val split may be missing. class_vectors: (C, E), unit vectors from prompts, or None where
    there are none.
    """

    train_features: Tensor
    train_labels: Tensor
    val_features: Tensor | None
    val_labels: Tensor | None
    classes: int
    class_vectors: Tensor | None
    seed: int


@dataclass(frozen=True)
class LinearProbe:
    """weight (C, E), bias (C,) on features standardized by mean (E,) and std (E,); float64.

    `weight_decay` is the one that was chosen or given; `failure` says what kept the solver from
    its solution, else None.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    weight_decay: float
    failure: str | None

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight, bias, mean and std, for the initialization of a linear head."""
        return self.weight, self.bias, self.mean, self.std

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (N, C), float32, of features (N, E)."""
        standardized = (features.to(self.mean) - self.mean) / self.std
        return torch.addmm(self.bias, standardized, self.weight.T).float()


def fit_linear_probe(inputs: ProbeInputs, weight_decay: float | None, solve: Solve) -> LinearProbe:
    """Fit a probe; without a weight decay, choose it by val top-1, of equals by the val loss.

    Features are standardized by their mean and standard deviation on train. Weight decays are tried
    from the strongest down, each solution being where the next search begins. All is computed where
    the features lie (CPU or CUDA).
    """
    weight_decays = WEIGHT_DECAYS if weight_decay is None else (weight_decay,)

    def score(probe: LinearProbe) -> tuple[float, float]:
        assert inputs.val_features is not None
        assert inputs.val_labels is not None
        logits = probe.logits(inputs.val_features)
        labels = inputs.val_labels.to(logits.device).long()
        top1 = (logits.argmax(1) == labels).double().mean().item()
        loss = F.cross_entropy(logits, labels).item()
        log.debug(
            "linear probe: decay %g, val top-1 %.4f, loss %.4f", probe.weight_decay, top1, loss
        )
        return top1, -loss

    probes = _fit_all(inputs, weight_decays, solve)
    best = probes[0] if len(probes) == 1 else max(probes, key=score)
    if best.failure is not None:
        log.warning(
            "the linear probe %s with weight decay %g: its accuracy may be a little too low",
            best.failure,
            best.weight_decay,
        )
    return best


def _fit_all(
    inputs: ProbeInputs, weight_decays: Sequence[float], solve: Solve
) -> list[LinearProbe]:
    """Fit a probe with each weight decay, the strongest first."""
    features, classes = inputs.train_features.double(), inputs.classes
    mean = features.mean(0)
    std = features.std(0, correction=0)
    # A feature that is the same on every image says nothing: its standard deviation is rounding.
    std = torch.where(std > 1e-9 * features.abs().amax(0), std, torch.ones_like(std))
    standardized = (features - mean) / std
    labels = inputs.train_labels.to(features.device).long()
    probes = []
    solution = standardized.new_zeros(classes * (standardized.shape[1] + 1))
    with limit_threads(standardized.shape[0] * standardized.shape[1] * classes):
        for weight_decay in weight_decays:
            solution, failure = solve(standardized, labels, classes, weight_decay, solution)
            weight, bias = unpack(solution, classes)
            probes.append(LinearProbe(weight, bias, mean, std, weight_decay, failure))
    return probes


def unpack(solution: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Split a solution vector into weight (C, E) and bias (C,)."""
    return solution[:-classes].view(classes, -1), solution[-classes:]


@contextmanager
def limit_threads(work: int) -> Iterator[None]:
    """Use one thread inside where `work` multiply-adds a pass are too few to share."""
    threads = torch.get_num_threads()
    if work < MIN_PARALLEL_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
