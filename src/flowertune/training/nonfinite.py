"""Reproduce the batch at which a training diverged from (seed, epoch, step), for inspection."""

import math
from typing import Any

import torch

from flowertune import files
from flowertune.config.trainer import TrainerConfig
from flowertune.data.loader import TrainLoader
from flowertune.models import serialization
from flowertune.runs.directory import Run
from flowertune.training.state import LoopState
from flowertune.training.step import Batch, NonFiniteError, TrainStep, load_batches


def dump_failed_batch(
    error: NonFiniteError,
    step: TrainStep,
    loader: TrainLoader,
    settings: TrainerConfig,
    progress: LoopState,
    run: Run,
) -> str:
    """Write the images of a failed step into the run; returns what happened and why, in one line.

    `progress` has a line for each step of its epoch before the one that failed, and the step's
    classifier the weights of then. run.failed_batch gets batch.safetensors with "images"
    (N, 3, H, W) as the model got them, "targets" (N, C) and "photos" (N,), their rows among the
    train images of photos.csv, and facts.json.
    """
    index = len(progress.lines)
    numbered = list(enumerate(loader.batches(progress.epoch)))
    numbered = numbered[index * settings.accumulation :][: settings.accumulation]
    batches = list(load_batches(loader, numbered, progress.epoch))
    exact = _evaluate_in_float32(step, batches)
    cause = _cause(step, exact)
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
        "epoch": progress.epoch,
        "step": index + 1,
        "error": str(error),
        "likely_cause": cause,
        "precision": step.compute.precision,
        "peak_learning_rates": _peak_rates(step),
        "in_full_precision": {name: _finite_or_none(value) for name, value in exact.items()},
        "largest_weight": _finite_or_none(
            max(float(weight.detach().abs().max()) for weight in step.parameters)
        ),
    }
    files.write_json(run.failed_batch_dir / "facts.json", facts)
    return f"{error}; likely cause: {cause}; its photos are in {run.failed_batch_dir}"


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no such numbers


def _cause(step: TrainStep, exact: dict[str, float]) -> str:
    precision = step.compute.precision
    if precision != "fp32" and all(map(math.isfinite, exact.values())):
        return f"trainer.precision={precision}, as in fp32 the loss is {exact['loss']:.4g}"
    rates = " and ".join(f"{key}={rate:g}" for key, rate in _peak_rates(step).items())
    return f"a learning rate that is too high, with {rates}"


def _peak_rates(step: TrainStep) -> dict[str, Any]:
    """Peak learning rates by their config keys."""
    keys = {"adapter": "optimizer.lr", "head": "optimizer.head_lr"}
    return {keys[group["name"]]: group["peak_lr"] for group in step.optimizer.param_groups}


def _evaluate_in_float32(step: TrainStep, batches: list[Batch]) -> dict[str, float]:
    """The mean loss and the norm of its gradient in float32, with the present weights."""
    n_images = sum(len(images) for images, _ in batches)
    loss, gradients = 0.0, [torch.zeros_like(weight) for weight in step.parameters]
    for images, targets in batches:
        embedding, logits = step.classifier(images)
        part = step.criterion(embedding, logits, targets)["loss"] * (len(images) / n_images)
        loss += float(part.detach())
        parts = torch.autograd.grad(part, step.parameters, allow_unused=True)
        for total, gradient in zip(gradients, parts, strict=True):
            if gradient is not None:
                total += gradient
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
    return {"loss": loss, "gradient_norm": float(norm)}
