"""Solve for a linear probe's weights: L-BFGS to convergence, AdamW for some epochs, or ridge."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from flowertune import seeding
from flowertune.baselines.linear_probe import Problem, Solve, Vector, unpack

# The largest entry of the gradient of the mean loss at which a solution counts as reached.
GRADIENT_TOLERANCE = 1e-5
# For each weight decay. Small tasks need 5 to 120; the bound is for 20,000 images of 1,000 classes.
MAX_ITERATIONS = 500

# Steps that L-BFGS remembers; each costs two vectors of the size of the weights.
HISTORY = 10


def lbfgs(problem: Problem, weight_decay: float, start: Vector) -> tuple[Vector, str | None]:
    """Minimize mean cross-entropy + weight_decay / 2 * |weight|^2; the bias is not decayed.

    L-BFGS: Liu and Nocedal 1989. No random number.
    """
    offsets = torch.arange(len(problem.labels), device=problem.labels.device) * problem.classes
    label_positions = offsets + problem.labels
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

    def closure() -> Float[Tensor, ""]:
        loss, vector.grad = _loss_and_gradient(
            vector.detach(), problem, label_positions, weight_decay
        )
        return loss

    optimizer.step(closure)
    # Once more: the line search may have looked elsewhere last.
    solution = vector.detach()
    _, gradient = _loss_and_gradient(solution, problem, label_positions, weight_decay)
    largest = gradient.abs().max().item()
    if largest <= GRADIENT_TOLERANCE:
        return solution, None
    return solution, f"did not converge in {MAX_ITERATIONS} iterations (gradient {largest:.1e})"


def adamw(epochs: int, lr: float, batch_size: int, seed: int) -> Solve:
    """Train in minibatches with AdamW (Loshchilov & Hutter 2019); a cosine lowers the rate to 0.

    From zero, whatever there is to begin from; weight decay is AdamW's own, decoupled one. The
    order of the images comes from (seed, "linear probe", epoch).
    """

    def solve(problem: Problem, weight_decay: float, start: Vector) -> tuple[Vector, None]:
        features, labels = problem.features.float(), problem.labels
        weight = features.new_zeros(problem.classes, features.shape[1]).requires_grad_()
        bias = features.new_zeros(problem.classes).requires_grad_()
        optimizer = torch.optim.AdamW(
            [{"params": [weight], "weight_decay": weight_decay},
             {"params": [bias], "weight_decay": 0.0}], lr=lr,
        )  # fmt: skip
        steps = epochs * -(-len(features) // batch_size)
        step = 0
        for epoch in range(epochs):
            generator = seeding.generator(seed, "linear probe", epoch)
            order = torch.randperm(len(features), generator=generator)
            for batch in order.to(features.device).split(batch_size):
                for group in optimizer.param_groups:
                    group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
                optimizer.zero_grad()
                F.cross_entropy(F.linear(features[batch], weight, bias), labels[batch]).backward()
                optimizer.step()
                step += 1
        return torch.cat([weight.detach().flatten(), bias.detach()]).double(), None

    return solve


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


def _loss_and_gradient(
    vector: Vector, problem: Problem, label_positions: Int64[Tensor, "n"], weight_decay: float
) -> tuple[Float[Tensor, ""], Vector]:
    """Compute both by hand rather than autograd: no graph, no second copy of the logits.

    `label_positions` is the position of each image's label in the flattened logits (N * C,).
    """
    features, (weight, bias) = problem.features, unpack(vector, problem.classes)
    log_probabilities = torch.addmm(bias, features, weight.T).log_softmax(1)
    loss = -log_probabilities.view(-1)[label_positions].mean()
    loss += weight_decay / 2 * weight.square().sum()
    error = log_probabilities.exp_()
    error.view(-1)[label_positions] -= 1
    error /= len(features)
    weight_gradient = torch.addmm(weight, error.T, features, beta=weight_decay)
    return loss, torch.cat([weight_gradient.flatten(), error.sum(0)])
