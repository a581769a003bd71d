"""One step of training: forward, loss, backward, guard, step."""

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import closing

import torch
from torch import Tensor

from flowertune.config.optimizer import OptimizerConfig
from flowertune.config.trainer import TrainerConfig
from flowertune.data.loader import TrainLoader
from flowertune.errors import TrainingError
from flowertune.models.classifier import Classifier
from flowertune.runtime.device import Compute
from flowertune.seeding import derive_seed
from flowertune.training.cuda_graph import CudaGraphStep, Scalars, build_graph_step
from flowertune.training.optimizer import build_optimizer

Criterion = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]
Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W) normalized and targets (B, C), on the device


class TrainStep:
    """Takes steps with one optimizer, at the learning rates that it has; fp16's scaler is kept.

    `clip_norm`: the largest norm of the gradient, None: any. `deferred`: the host queues steps
    without waiting for one. What is not finite then stops the optimizer, which has to be a fused
    one, on the device, in that step and all later ones, and `check_finite` finds it when the host
    has the terms. `replay` has such steps recorded once and replayed; None: each runs as it is.
    """

    def __init__(
        self,
        classifier: Classifier,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        compute: Compute,
        clip_norm: float | None,
        replay: CudaGraphStep | None,
    ) -> None:
        self.classifier = classifier
        self.criterion = criterion
        self.optimizer = optimizer
        self.compute = compute
        self.limit = float("inf") if clip_norm is None else clip_norm
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]
        fp16 = compute.precision == "fp16"
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=fp16)
        self.deferred = compute.asynchronous and not fp16  # the scaler waits in any case
        self.stopped = torch.zeros((), device=compute.device)  # 1 from the first that is not finite
        if self.deferred:
            assert optimizer.defaults.get("fused")  # no other looks at what stops it
            optimizer.found_inf = self.stopped  # type: ignore[attr-defined]  # read by its kernel
        self.replay = replay
        assert self.deferred or replay is None

    def take(
        self, batches: Iterable[Batch], photos: int, where: str
    ) -> tuple[dict[str, Tensor], bool]:
        """Changes the weights once by the gradients of `batches`, which hold so many photos.

        Returns the criterion's terms as means over the photos with "gradient_norm", all on the
        device, and whether the weights were changed: fp16's scaler skips some steps. `where` names
        the step in an error.

        Raises:
            NonFiniteError: a loss or gradient, before it touches a weight; not where `deferred`.
        """
        # forward, loss, backward
        terms: dict[str, Tensor] = {}
        for images, targets in batches:
            part = len(images) / photos
            for name, term in self._run(self._backward, images, targets, part=part).items():
                terms[name] = terms.get(name, 0) + term
            del images, targets  # before the next are put together

        # guard: nothing that is not finite reaches a weight; step
        if self.scaler.is_enabled():
            return self._scaled_step(terms, where)
        if self.deferred:
            return {**terms, **self._run(self._update, terms["loss"])}, True
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.limit)
        check_finite(terms["loss"], norm, where, self.compute.precision)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**terms, "gradient_norm": norm}, True

    def _run(
        self, function: Callable[..., Scalars], *tensors: Tensor, **fixed: float
    ) -> dict[str, Tensor]:
        if self.replay is None:
            return function(*tensors, **fixed)
        return self.replay(function, *tensors, **fixed)

    def _backward(self, images: Tensor, targets: Tensor, part: float) -> dict[str, Tensor]:
        """Adds the gradients of a batch, which is `part` of the step; returns that of its terms."""
        with self.compute.autocast():
            embedding, logits = self.classifier(images)
            terms = self.criterion(embedding, logits, targets)
        self.scaler.scale(terms["loss"] * part).backward()
        return {name: term.detach() * part for name, term in terms.items()}

    def _update(self, loss: Tensor) -> dict[str, Tensor]:
        """Guard and step of what is queued: the device itself sees what is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.limit)
        finite = torch.isfinite(loss + norm)
        torch.maximum(self.stopped, (~finite).float(), out=self.stopped)
        self.optimizer.step()
        # a replay adds to the very tensors that it was recorded with
        self.optimizer.zero_grad(set_to_none=self.replay is None)
        return {"gradient_norm": norm}

    def _scaled_step(self, terms: dict[str, Tensor], where: str) -> tuple[dict[str, Tensor], bool]:
        """Guard and step of fp16, whose scaler skips a step and scales less after an overflow."""
        scale = self.scaler.get_scale()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.limit)
        skips = scale > 1  # at the least scale, an overflow is the gradient's own
        loss = terms["loss"]
        check_finite(loss, torch.zeros_like(norm) if skips else norm, where, self.compute.precision)

        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return {**terms, "gradient_norm": norm}, self.scaler.get_scale() >= scale


def build_step(
    classifier: Classifier,
    criterion: Criterion,
    compute: Compute,
    optimizer: OptimizerConfig,
    trainer: TrainerConfig,
    say: Callable[[str], None],
) -> TrainStep:
    """A step that trains what the classifier trains; `say` is told where it cannot be recorded."""
    replay = build_graph_step(trainer.compile, compute, say)
    adamw = build_optimizer(
        classifier.parameter_groups(), optimizer, compute.device, replayed=replay is not None
    )
    return TrainStep(classifier, criterion, adamw, compute, trainer.clip_norm, replay)


class NonFiniteError(TrainingError):
    """A step's loss or gradient is not; the weights are those that it began with."""


def check_finite(loss: Tensor | float, norm: Tensor | float, where: str, precision: str) -> None:
    """Raises NonFiniteError, naming the step `where`, unless its loss and gradient are finite."""
    if not math.isfinite(loss + norm):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise NonFiniteError(
            nonfinite_message(f"{what} of {where}", precision)
            + "; the weights were left as they were before it"
        )


def load_batches(
    photos: TrainLoader, batches: Iterable[tuple[int, Tensor]], epoch: int
) -> Generator[Batch, None, None]:
    """The batches (their number in the epoch, photo indices (B,)), each put together when needed.

    Each sets the global random state that dropout draws from, so a step's forward pass comes
    before the next one is asked for. To be closed where it is not read to its end.
    """
    numbered = list(batches)
    with closing(photos.load(numbered, epoch)) as stream:
        for batch, _ in numbered:
            torch.manual_seed(derive_seed(photos.seed, "dropout", epoch, batch))
            yield next(stream)  # which draws nothing from that state


def nonfinite_message(what: str, precision: str) -> str:
    """What a person reads and may try when a training has run away."""
    other = ", or trainer.precision=fp32" if precision == "fp16" else ""
    return f"the {what} is not finite: try a lower optimizer.lr and optimizer.head_lr{other}"
