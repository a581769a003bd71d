"""Take one training step: forward, loss, backward, guard, update."""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from flowertune.errors import TrainingError
from flowertune.models.classifier import Classifier
from flowertune.runtime.device import Compute
from flowertune.training.batches import Batch
from flowertune.training.cuda_graph import CudaGraphStep, Scalars

# embedding, logits and targets to the terms of the loss, "loss" among them
Criterion = Callable[[Float[Tensor, "b e"], Float[Tensor, "b c"], Float[Tensor, "b c"]], Scalars]


class NonFiniteError(TrainingError):
    """The loss or gradient of a step is not finite; the weights are those before it."""


class TrainStep:
    """Train with one optimizer, at the learning rates that it has, and keep fp16's loss scaler.

    `clip_norm`: the largest norm of the gradient, None: any. `deferred`: the host queues steps
    without waiting for one. What is not finite then stops the optimizer, which has to be a fused
    one, on the device, in that step and all later ones, and `check_finite` finds it when the host
    has the terms. `graph_step` records such steps once and replays them; None: each runs as it is.
    """

    def __init__(
        self,
        classifier: Classifier,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        compute: Compute,
        clip_norm: float | None,
        graph_step: CudaGraphStep | None,
    ) -> None:
        self.classifier = classifier
        self.criterion = criterion
        self.optimizer = optimizer
        self.compute = compute
        self.max_norm = float("inf") if clip_norm is None else clip_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        fp16 = compute.precision == "fp16"
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=fp16)
        self.deferred = compute.asynchronous and not fp16  # the scaler waits in any case
        self.found_inf = torch.zeros((), device=compute.device)  # 1 from the first such step on
        if self.deferred:
            assert optimizer.defaults.get("fused")  # no other looks at what stops it
            optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]  # read by its kernel
        self.graph_step = graph_step
        assert self.deferred or graph_step is None

    def run(self, batches: Iterable[Batch], n_images: int, where: str) -> tuple[Scalars, bool]:
        """Change the weights once by the gradients of `batches`, which hold `n_images` images.

        Returns the criterion's terms as means over the images with "gradient_norm", all on the
        device, and whether the weights were changed: fp16's scaler skips some steps. `where` names
        the step in an error.

        Raises:
            NonFiniteError: a loss or gradient, before it touches a weight; not where `deferred`.
        """
        # forward, loss, backward
        terms: Scalars = {}
        for images, targets in batches:
            weight = len(images) / n_images
            for name, term in self._call(self._backward, images, targets, weight=weight).items():
                terms[name] = terms.get(name, 0) + term
            del images, targets  # before the next are put together

        if self.deferred:
            return {**terms, **self._call(self._update, terms["loss"])}, True

        # guard: nothing that is not finite reaches a weight; update
        scale = self.scaler.get_scale()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        # fp16's scaler skips an overflow and scales less; at the least scale it is the gradient's
        guarded = torch.zeros_like(norm) if scale > 1 else norm
        check_finite(terms["loss"], guarded, where, self.compute.precision)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return {**terms, "gradient_norm": norm}, self.scaler.get_scale() >= scale

    def _call(self, function: Callable[..., Scalars], *tensors: Tensor, **fixed: float) -> Scalars:
        if self.graph_step is None:
            return function(*tensors, **fixed)
        return self.graph_step(function, *tensors, **fixed)

    def _backward(
        self, images: Float[Tensor, "b 3 h w"], targets: Float[Tensor, "b c"], weight: float
    ) -> Scalars:
        """Add a batch's gradients times its `weight` in the step; returns its terms likewise."""
        with self.compute.autocast():
            embedding, logits = self.classifier(images)
            terms = self.criterion(embedding, logits, targets)
        self.scaler.scale(terms["loss"] * weight).backward()
        return {name: term.detach() * weight for name, term in terms.items()}

    def _update(self, loss: Float[Tensor, ""]) -> Scalars:
        """Guard and step where queued: the device itself sees what is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        finite = torch.isfinite(loss + norm)
        torch.maximum(self.found_inf, (~finite).float(), out=self.found_inf)
        self.optimizer.step()
        # a replay adds to the very tensors that it was recorded with
        self.optimizer.zero_grad(set_to_none=self.graph_step is None)
        return {"gradient_norm": norm}


def check_finite(
    loss: Float[Tensor, ""] | float, norm: Float[Tensor, ""] | float, where: str, precision: str
) -> None:
    """Raise NonFiniteError, naming the step `where`, unless its loss and gradient are finite."""
    if not math.isfinite(loss + norm):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise NonFiniteError(
            nonfinite_message(f"{what} of {where}", precision)
            + "; the weights were left as they were before it"
        )


def nonfinite_message(what: str, precision: str) -> str:
    """Explain the failure of a training and what a person may try."""
    hint = ", or trainer.precision=fp32" if precision == "fp16" else ""
    return f"the {what} is not finite: try a lower optimizer.lr and optimizer.head_lr{hint}"
