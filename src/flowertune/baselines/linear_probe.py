"""Fit a linear probe: multinomial logistic regression on frozen features."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

Vector = Float[Tensor, "w"]  # a solution: weight and bias, see `unpack`

# L2 penalties to choose from on val, strongest first: each solution starts the next search. For
# DeiT-Tiny on Flowers-17 with 40 images per class, 1e-2 is best.
WEIGHT_DECAYS = (1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# Multiply-adds of one pass, N * E * C, below which a second thread costs more time than it saves
# (much more on a shared machine).
MIN_PARALLEL_WORK = 100_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Inputs of a solver: standardized features, and labels below `classes`."""

    features: Float[Tensor, "n e"]
    labels: Int64[Tensor, "n"]
    classes: int


# (problem, weight decay, start) -> solution, and what kept the solver from converging or None
Solve = Callable[[Problem, float, Vector], tuple[Vector, str | None]]


@dataclass(frozen=True)
class ProbeInputs:
    """Inputs to fit a probe: frozen features and labels by split ("train", optionally "val").

    labels: integers below `classes`. class_vectors: from prompts, None without prompts.
    """

    features: Mapping[str, Float[Tensor, "_ e"]]
    labels: Mapping[str, Int64[Tensor, "_"]]
    classes: int
    class_vectors: Float[Tensor, "c e"] | None
    seed: int


@dataclass(frozen=True)
class LinearProbe:
    """Weight and bias for features standardized by mean and std, in float64.

    `weight_decay` is given or chosen on val; `failure` tells why the solver did not converge.
    """

    weight: Float[Tensor, "c e"]
    bias: Float[Tensor, "c"]
    mean: Float[Tensor, "e"]
    std: Float[Tensor, "e"]
    weight_decay: float
    failure: str | None

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight, bias, mean and std, to initialize a linear head."""
        return self.weight, self.bias, self.mean, self.std

    def logits(self, features: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        """Return the logits in float32."""
        standardized = (features.to(self.mean) - self.mean) / self.std
        return torch.addmm(self.bias, standardized, self.weight.T).float()


def fit_linear_probe(inputs: ProbeInputs, weight_decay: float | None, solve: Solve) -> LinearProbe:
    """Fit a probe; without a weight decay, choose it by val top-1, ties by val loss.

    Features are standardized by their mean and standard deviation on train. Weight decays are
    tried from the strongest down, and each solution starts the next search. Runs on the device of
    the features (CPU or CUDA).
    """
    features, classes = inputs.features["train"].double(), inputs.classes
    mean = features.mean(0)
    std = features.std(0, correction=0)
    # A feature that is constant over all images carries no information: its std is rounding error.
    std = torch.where(std > 1e-9 * features.abs().amax(0), std, torch.ones_like(std))
    labels = inputs.labels["train"].to(features.device).long()
    problem = Problem((features - mean) / std, labels, classes)
    solution = features.new_zeros(classes * (features.shape[1] + 1))
    probes, threads = [], torch.get_num_threads()
    if features.numel() * classes < MIN_PARALLEL_WORK:
        torch.set_num_threads(1)
    try:
        for decay in WEIGHT_DECAYS if weight_decay is None else (weight_decay,):
            solution, failure = solve(problem, decay, solution)
            probes.append(LinearProbe(*unpack(solution, classes), mean, std, decay, failure))
    finally:
        torch.set_num_threads(threads)

    def score(probe: LinearProbe) -> tuple[float, float]:
        logits = probe.logits(inputs.features["val"])
        labels = inputs.labels["val"].to(logits.device).long()
        top1 = (logits.argmax(1) == labels).double().mean().item()
        loss = F.cross_entropy(logits, labels).item()
        log.debug(
            "linear probe: decay %g, val top-1 %.4f, loss %.4f", probe.weight_decay, top1, loss
        )
        return top1, -loss

    best = probes[0] if len(probes) == 1 else max(probes, key=score)
    if best.failure is not None:
        log.warning(
            "the linear probe %s with weight decay %g; its accuracy may be slightly too low",
            best.failure,
            best.weight_decay,
        )
    return best


def unpack(solution: Vector, classes: int) -> tuple[Float[Tensor, "c e"], Float[Tensor, "c"]]:
    """Split a solution vector into weight and bias."""
    return solution[:-classes].view(classes, -1), solution[-classes:]
