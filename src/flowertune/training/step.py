"""Take one training step: forward, loss, backward, guard, update."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from flowertune.models.classifier import Classifier
from flowertune.runtime.device import Compute
from flowertune.training.batches import Batch
from flowertune.training.cuda_graph import CudaGraphStep, Scalars
from flowertune.training.nonfinite import check_finite

# embedding, logits and targets to the terms of the loss, "loss" among them
Criterion = Callable[[Float[Tensor, "b e"], Float[Tensor, "b c"], Float[Tensor, "b c"]], Scalars]


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

        # guard: nothing that is not finite reaches a weight; update
        if self.scaler.is_enabled():
            return self._scaled_step(terms, where)
        if self.deferred:
            return {**terms, **self._call(self._update, terms["loss"])}, True
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        check_finite(terms["loss"], norm, where, self.compute.precision)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**terms, "gradient_norm": norm}, True

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

    def _scaled_step(self, terms: Scalars, where: str) -> tuple[Scalars, bool]:
        """Guard and step of fp16, whose scaler skips a step and scales less after an overflow."""
        scale = self.scaler.get_scale()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        skips = scale > 1  # at the least scale, an overflow is the gradient's own
        loss = terms["loss"]
        check_finite(loss, torch.zeros_like(norm) if skips else norm, where, self.compute.precision)

        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return {**terms, "gradient_norm": norm}, self.scaler.get_scale() >= scale
