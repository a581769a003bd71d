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

# from embedding, logits and targets to the terms of the loss, including "loss"
Criterion = Callable[[Float[Tensor, "b e"], Float[Tensor, "b c"], Float[Tensor, "b c"]], Scalars]


class NonFiniteError(TrainingError):
    """A step's loss or gradient is not finite; the weights are those before the step."""


class TrainStep:
    """One optimizer step of a classifier, with gradient clipping and, for fp16, loss scaling.

    `clip_norm` None disables clipping. If `deferred`, the host queues steps without waiting for
    their results. A loss or gradient that is not finite then disables the (fused) optimizer on the
    device from that step on, and `check_finite` reports it once the host has fetched the terms.
    `graph_step` records deferred steps as CUDA graphs.
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
        self.deferred = compute.asynchronous and not fp16  # the scaler waits for every step
        self.found_inf = torch.zeros((), device=compute.device)  # 1 once a step was not finite
        if self.deferred:
            assert optimizer.defaults.get("fused")  # only the fused kernel reads found_inf
            optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]
        self.graph_step = graph_step
        assert self.deferred or graph_step is None

    def run(self, batches: Iterable[Batch], n_images: int, where: str) -> tuple[Scalars, bool]:
        """Update the weights once with the gradients of `batches`, `n_images` images in all.

        Returns the terms of the loss, averaged over the images, and "gradient_norm", all on the
        device, and whether the weights were updated (fp16's scaler skips some steps). `where`
        names the step in errors.

        Raises:
            NonFiniteError: unless `deferred`; the weights are not updated.
        """
        # forward, loss, backward
        terms: Scalars = {}
        for images, targets in batches:
            weight = len(images) / n_images
            for name, term in self._call(self._backward, images, targets, weight=weight).items():
                terms[name] = terms.get(name, 0) + term
            del images, targets  # free them before the next batch is built

        if self.deferred:
            return {**terms, **self._call(self._update, terms["loss"])}, True

        # guard against a loss or gradient that is not finite; update
        scale = self.scaler.get_scale()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        # fp16's scaler skips overflows and lowers its scale; at scale 1 the gradient is the cause
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
        """Add a batch's gradients and return its terms, both times its `weight` in the step."""
        with self.compute.autocast():
            embedding, logits = self.classifier(images)
            terms = self.criterion(embedding, logits, targets)
        self.scaler.scale(terms["loss"] * weight).backward()
        return {name: term.detach() * weight for name, term in terms.items()}

    def _update(self, loss: Float[Tensor, ""]) -> Scalars:
        """Guard and update on the device, without waiting for it."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        finite = torch.isfinite(loss + norm)
        torch.maximum(self.found_inf, (~finite).float(), out=self.found_inf)
        self.optimizer.step()
        # a replay adds to the gradient tensors of its recording
        self.optimizer.zero_grad(set_to_none=self.graph_step is None)
        return {"gradient_norm": norm}


def check_finite(
    loss: Float[Tensor, ""] | float, norm: Float[Tensor, ""] | float, where: str, precision: str
) -> None:
    """Raise NonFiniteError unless the loss and gradient norm of the step `where` are finite."""
    if not math.isfinite(loss + norm):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise NonFiniteError(
            nonfinite_message(f"{what} of {where}", precision) + "; the weights were not updated"
        )


def nonfinite_message(what: str, precision: str) -> str:
    """Error message for `what`, with settings to try."""
    hint = ", or trainer.precision=fp32" if precision == "fp16" else ""
    return f"the {what} is not finite: try a lower optimizer.lr and optimizer.head_lr{hint}"
