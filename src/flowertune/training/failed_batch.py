"""Save the batch at which a training diverged, for inspection."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import torch

from flowertune import files
from flowertune.errors import TrainingError, with_type
from flowertune.models import serialization
from flowertune.runs.directory import Metrics, Run
from flowertune.training.batches import Batch, load_steps
from flowertune.training.state import TrainState
from flowertune.training.step import NonFiniteError, TrainStep


@contextmanager
def keep_failed_batch(
    state: TrainState, run: Run, track: Callable[[Sequence[Metrics]], None]
) -> Iterator[None]:
    """If the body raises a TrainingError, write the metrics and the failed batch, and re-raise."""
    try:
        yield
    except TrainingError as error:
        state.lines += state.epoch_lines
        state.write_metrics(run)
        track(state.lines)
        if not isinstance(error, NonFiniteError):
            raise
        try:
            dump_failed_batch(error, state, run)
            message = f"{error}; the images of this step were saved in {run.failed_batch_dir}"
        except (OSError, RuntimeError, MemoryError) as failure:  # the first error matters more
            message = f"{error}; the images of the step could not be saved ({with_type(failure)})"
        raise TrainingError(message) from error


def dump_failed_batch(error: NonFiniteError, state: TrainState, run: Run) -> None:
    """Write the images of a failed step, and facts about it, to run.failed_batch_dir.

    `state` holds the weights before the step and a line for each earlier step of the epoch.
    batch.safetensors has "images" (N, 3, H, W), the model's input, "targets" (N, C) and "photos"
    (N,), row numbers among the train images of photos.csv. facts.json has the rest.
    """
    step, index = state.step, len(state.epoch_lines)
    numbered = state.step_indices(state.epoch)[index]
    with closing(load_steps(state.loader, state.epoch, [numbered])) as stream:
        batches = list(next(stream))
    exact = _evaluate_in_float32(step, batches)
    keys = {"adapter": "optimizer.lr", "head": "optimizer.head_lr"}
    run.failed_batch_dir.mkdir(exist_ok=True)
    serialization.save_weights(
        run.failed_batch_dir / "batch.safetensors",
        {
            "images": torch.cat([images for images, _ in batches]).cpu(),
            "targets": torch.cat([targets for _, targets in batches]).cpu(),
            "photos": torch.cat([indices for _, indices in numbered]),
        },
    )
    facts = {
        "epoch": state.epoch,
        "step": index + 1,
        "error": str(error),
        "precision": step.compute.precision,
        "peak_learning_rates": {
            keys[group["name"]]: group["peak_lr"] for group in step.optimizer.param_groups
        },
        "in_full_precision": {name: _finite_or_none(value) for name, value in exact.items()},
        "largest_weight": _finite_or_none(
            max(float(weight.detach().abs().max()) for weight in step.parameters)
        ),
    }
    files.write_json(run.failed_batch_dir / "facts.json", facts)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity or NaN


def _evaluate_in_float32(step: TrainStep, batches: list[Batch]) -> dict[str, float]:
    """Compute the mean loss and its gradient norm in float32 with the current weights."""
    n_images = sum(len(images) for images, _ in batches)
    step.optimizer.zero_grad()
    loss = 0.0
    for images, targets in batches:
        embedding, logits = step.classifier(images)
        part = step.criterion(embedding, logits, targets)["loss"] * (len(images) / n_images)
        part.backward()
        loss += part.item()
    norm = torch.nn.utils.clip_grad_norm_(step.parameters, math.inf)
    return {"loss": loss, "gradient_norm": norm.item()}
