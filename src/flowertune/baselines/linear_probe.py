"""A linear probe: multinomial logistic regression on frozen features, solved to convergence."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# The strengths of the L2 penalty that validation chooses from, strongest first: each solution is
# where the search for the next begins. Seen: 1e-2 is best for DeiT-Tiny on Flowers-17, 40 a class.
WEIGHT_DECAYS = (1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# The largest entry of the gradient of the mean loss at which a solution counts as reached.
GRADIENT_TOLERANCE = 1e-5
# For each weight decay. Small tasks need 5 to 120; the bound is for 20,000 photos of 1,000 classes.
MAX_ITERATIONS = 500

# Steps that L-BFGS remembers; each costs two vectors of the size of the weights.
HISTORY = 10

# Multiply-adds of one pass, N * E * C, below which a second thread costs more than it gives
# (and much more than that on a machine that others use too).
ONE_THREAD_BELOW = 100_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearProbe:
    """weight (C, E) and bias (C,) on features standardised by mean (E,) and std (E,); float64.

    `weight_decay` is the one that was chosen or given; `converged` says whether its solution was
    reached within the iterations allowed, `gradient` is the largest entry of the gradient there.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    weight_decay: float
    converged: bool
    gradient: float

    def logits(self, features: Tensor) -> Tensor:
        """Logits (N, C), float32, of features (N, E)."""
        standard = (features.to(self.mean) - self.mean) / self.std
        return torch.addmm(self.bias, standard, self.weight.T).float()


def fit_linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    classes: int,
    weight_decays: Sequence[float],
) -> LinearProbe:
    """The probe of the weight decay with the highest val top-1; of equals, the lowest val loss.

    Features are (N, E), labels (N,) integers below `classes`. For each weight decay the mean
    cross-entropy + weight_decay / 2 * |weight|^2 on train features is minimised with L-BFGS
    (Liu and Nocedal 1989) in float64, from zero or from the solution before; features are
    standardised by their mean and standard deviation on train, the bias is not decayed. All is
    computed where the features lie (CPU or CUDA), with no random number.
    """
    val_labels = val_labels.to(train_features.device).long()

    def score(probe: LinearProbe) -> tuple[float, float]:
        logits = probe.logits(val_features)
        top1 = (logits.argmax(1) == val_labels).double().mean().item()
        loss = F.cross_entropy(logits, val_labels).item()
        log.debug(
            "linear probe: decay %g, val top-1 %.4f, loss %.4f", probe.weight_decay, top1, loss
        )
        return top1, -loss

    chosen = max(_solutions(train_features, train_labels, classes, weight_decays), key=score)
    return _told(chosen)


def fit_linear_probe_with(
    train_features: Tensor, train_labels: Tensor, classes: int, weight_decay: float
) -> LinearProbe:
    """The probe of a given weight decay, where there is no val; else as `fit_linear_probe`."""
    (probe,) = _solutions(train_features, train_labels, classes, [weight_decay])
    return _told(probe)


def _solutions(
    train_features: Tensor, train_labels: Tensor, classes: int, weight_decays: Sequence[float]
) -> list[LinearProbe]:
    """The probe of each weight decay, the strongest first."""
    features = train_features.double()
    mean = features.mean(0)
    std = features.std(0, correction=0)
    # A feature that is the same on every photo says nothing: its standard deviation is rounding.
    std = torch.where(std > 1e-9 * features.abs().amax(0), std, torch.ones_like(std))
    standard = (features - mean) / std
    labels = train_labels.to(features.device).long()
    probes = []
    solution = standard.new_zeros(classes * (standard.shape[1] + 1))
    with _threads_for(standard.shape[0] * standard.shape[1] * classes):
        for weight_decay in sorted(weight_decays, reverse=True):
            solution, gradient = _minimise(standard, labels, classes, weight_decay, solution)
            weight, bias = _unpack(solution, classes)
            converged = gradient <= GRADIENT_TOLERANCE
            probes.append(LinearProbe(weight, bias, mean, std, weight_decay, converged, gradient))
    return probes


def _told(probe: LinearProbe) -> LinearProbe:
    """The same, with a warning where its solution was not reached."""
    if not probe.converged:
        log.warning(
            "the linear probe did not converge in %d iterations (largest gradient %.1e, weight "
            "decay %g): its accuracy may be a little too low",
            MAX_ITERATIONS,
            probe.gradient,
            probe.weight_decay,
        )
    return probe


def _minimise(
    features: Tensor, labels: Tensor, classes: int, weight_decay: float, start: Tensor
) -> tuple[Tensor, float]:
    """Weights and bias in one vector, as `_unpack` takes them, and the gradient's largest entry."""
    at_label = torch.arange(len(features), device=features.device) * classes + labels
    vector = start.clone().requires_grad_()
    # scipy's L-BFGS-B comes to the same solutions, but spends several times as long on
    # its own vectors as on the loss, in BLAS threads that torch does not govern.
    optimizer = torch.optim.LBFGS(
        [vector],
        max_iter=MAX_ITERATIONS,
        history_size=HISTORY,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, vector.grad = _loss_and_gradient(
            vector.detach(), features, at_label, classes, weight_decay
        )
        return loss

    optimizer.step(closure)
    # Once more: the line search may have looked elsewhere last.
    solution = vector.detach()
    _, gradient = _loss_and_gradient(solution, features, at_label, classes, weight_decay)
    return solution, gradient.abs().max().item()


def _loss_and_gradient(
    vector: Tensor, features: Tensor, at_label: Tensor, classes: int, weight_decay: float
) -> tuple[Tensor, Tensor]:
    """Written out rather than left to autograd: no graph, no second copy of the logits.

    `at_label` (N,) is the place of each photo's label in the flattened logits (N * C,).
    """
    weight, bias = _unpack(vector, classes)
    log_probabilities = torch.addmm(bias, features, weight.T).log_softmax(1)
    loss = -log_probabilities.view(-1)[at_label].mean()
    loss += weight_decay / 2 * weight.square().sum()
    error = log_probabilities.exp_()
    error.view(-1)[at_label] -= 1
    error /= len(features)
    weight_gradient = torch.addmm(weight, error.T, features, beta=weight_decay)
    return loss, torch.cat([weight_gradient.flatten(), error.sum(0)])


def _unpack(vector: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    return vector[:-classes].view(classes, -1), vector[-classes:]


@contextmanager
def _threads_for(work: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    if work < ONE_THREAD_BELOW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
