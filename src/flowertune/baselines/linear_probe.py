"""Fit a linear probe: multinomial logistic regression on frozen features."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flowertune.baselines import solvers
from flowertune.baselines.solvers import Solver, limit_threads, unpack
from flowertune.config.probe import ProbeConfig

# The strengths of the L2 penalty that validation chooses from, strongest first: each solution is
# where the search for the next begins. Seen: 1e-2 is best for DeiT-Tiny on Flowers-17, 40 a class.
WEIGHT_DECAYS = (1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

log = logging.getLogger(__name__)


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


def fit_linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor | None,
    val_labels: Tensor | None,
    classes: int,
    weight_decays: Sequence[float],
    solve: Solver,
) -> LinearProbe:
    """Fit probes and choose the weight decay by val top-1; of equals, by the lowest val loss.

    Features are (N, E), labels (N,) integers below `classes`. Features are standardized by their
    mean and standard deviation on train. Weight decays are tried from the strongest down, each
    solution being where the next search begins. Without val there is one weight decay, and nothing
    to choose. All is computed where the features lie (CPU or CUDA).
    """

    def score(probe: LinearProbe) -> tuple[float, float]:
        assert val_features is not None
        assert val_labels is not None
        logits = probe.logits(val_features)
        labels = val_labels.to(logits.device).long()
        top1 = (logits.argmax(1) == labels).double().mean().item()
        loss = F.cross_entropy(logits, labels).item()
        log.debug(
            "linear probe: decay %g, val top-1 %.4f, loss %.4f", probe.weight_decay, top1, loss
        )
        return top1, -loss

    probes = _fit_all(train_features, train_labels, classes, weight_decays, solve)
    best = probes[0] if len(probes) == 1 else max(probes, key=score)
    if best.failure is not None:
        log.warning(
            "the linear probe %s with weight decay %g: its accuracy may be a little too low",
            best.failure,
            best.weight_decay,
        )
    return best


def _fit_all(
    train_features: Tensor,
    train_labels: Tensor,
    classes: int,
    weight_decays: Sequence[float],
    solve: Solver,
) -> list[LinearProbe]:
    """Fit a probe with each weight decay, the strongest first."""
    features = train_features.double()
    mean = features.mean(0)
    std = features.std(0, correction=0)
    # A feature that is the same on every image says nothing: its standard deviation is rounding.
    std = torch.where(std > 1e-9 * features.abs().amax(0), std, torch.ones_like(std))
    standardized = (features - mean) / std
    labels = train_labels.to(features.device).long()
    probes = []
    solution = standardized.new_zeros(classes * (standardized.shape[1] + 1))
    with limit_threads(standardized.shape[0] * standardized.shape[1] * classes):
        for weight_decay in sorted(weight_decays, reverse=True):
            solution, failure = solve(standardized, labels, classes, weight_decay, solution)
            weight, bias = unpack(solution, classes)
            probes.append(LinearProbe(weight, bias, mean, std, weight_decay, failure))
    return probes


def probe_settings(settings: ProbeConfig, seed: int) -> tuple[Sequence[float], solvers.Solver]:
    """Return the weight decays to choose from and the solver, from the config."""
    weight_decays = WEIGHT_DECAYS if settings.weight_decay is None else (settings.weight_decay,)
    if settings.solver == "lbfgs":
        return weight_decays, solvers.lbfgs
    return weight_decays, solvers.adamw(settings.epochs, settings.lr, settings.batch_size, seed)
