"""The training loop: schedule, step, log, validate, keep, stop."""

import math
import operator
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from flowertune.config import TrainerConfig
from flowertune.data.training_photos import TrainingPhotos
from flowertune.errors import TrainingFailed
from flowertune.metrics import SplitMetrics
from flowertune.training.early_stopping import BestEpoch
from flowertune.training.ema import AveragedWeights
from flowertune.training.optimizer import schedule, set_learning_rates
from flowertune.training.step import Step, check_finite, loaded, not_finite

Line = dict[str, Any]


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch leaves: `lines` for metrics.jsonl, `timing`, and which weights to keep.

    `val` is the line of validation, None without a val split. `keep` says that these weights are
    the ones to keep so far: the best on val, or the latest where nothing is selected.
    """

    epoch: int
    lines: list[Line]
    train_loss: float
    val: Line | None
    keep: bool
    timing: Line


def fit(
    step: Step,
    photos: TrainingPhotos,
    settings: TrainerConfig,
    best: BestEpoch,
    validate: Callable[[], SplitMetrics] | None,
    on_step: Callable[[int, int, int], None],
    average: AveragedWeights | None,
) -> Iterator[EpochRecord]:
    """Trains in place and yields after each epoch, when `best` has taken its validation in.

    `validate` None: no val split, so no best epoch and no early end. `on_step(epoch, done, total)`
    counts the epoch's steps. `average` takes in the weights of each step; the step's classifier
    keeps its own.

    Raises:
        TrainingFailed: a loss or gradient that is not finite, before it touches a weight (on a GPU
            at the end of its epoch, with fp16 at once); a validation loss that is not.
    """
    steps_per_epoch = -(-len(photos.batches(1)) // settings.accumulation)
    total_steps = settings.epochs * steps_per_epoch
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    applied = 0  # steps that changed the weights: fp16's scaler skips some, the schedule with them

    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        step.classifier.train()
        lines: list[Line] = []
        measured: list[dict[str, Tensor]] = []
        photos_seen: list[int] = []
        batches = list(enumerate(photos.batches(epoch)))
        with closing(loaded(photos, batches, epoch)) as stream:
            for done, first in enumerate(range(0, len(batches), settings.accumulation), start=1):
                # schedule
                share = schedule(applied, total_steps, warmup_steps, settings.final_lr)
                rates = set_learning_rates(step.optimizer, share)

                # forward, loss, backward, guard, step
                step_batches = batches[first : first + settings.accumulation]
                in_step = sum(len(indices) for _, indices in step_batches)
                terms, stepped = step.take(
                    islice(stream, len(step_batches)), in_step, _place(epoch, done)
                )
                applied += stepped
                if stepped and average is not None:
                    average.update()

                # log
                measured.append(terms)
                photos_seen.append(in_step)
                lines.append({"step": (epoch - 1) * steps_per_epoch + done, "epoch": epoch,
                              "split": "train", **_named(rates)})  # fmt: skip
                on_step(epoch, done, steps_per_epoch)

        # validate, keep, stop
        for done, (line, values) in enumerate(zip(lines, _values(measured), strict=True), start=1):
            line.update(values)
            if step.deferred:
                check_finite(values["loss"], values["gradient_norm"], _place(epoch, done),
                             step.compute.precision)  # fmt: skip
            if not math.isfinite(values["gradient_norm"]):  # fp16's scaler skipped the step
                line["gradient_norm"] = None
        train_losses = [line["loss"] for line in lines]
        trained_at = time.perf_counter()
        val = None if validate is None else validate()
        if val is not None:
            if not math.isfinite(val.loss):
                raise TrainingFailed(
                    not_finite(f"validation loss of epoch {epoch}", step.compute.precision)
                )
            lines.append({"step": epoch * steps_per_epoch, "epoch": epoch, "split": "val",
                          "loss": val.loss, "top1": val.top1, "top5": val.top5,
                          "mean_per_class": val.mean_per_class})  # fmt: skip
        yield EpochRecord(
            epoch=epoch,
            lines=lines,
            train_loss=sum(map(operator.mul, train_losses, photos_seen)) / sum(photos_seen),
            val=None if val is None else lines[-1],
            keep=val is None or best.update(epoch, val),
            timing={
                "epoch": epoch,
                "train_seconds": trained_at - started,
                "val_seconds": time.perf_counter() - trained_at,
            },
        )
        if best.should_stop:
            return


def _values(measured: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """The scalars of an epoch's steps, brought from the device in one piece."""
    table = torch.stack([torch.stack(list(scalars.values())) for scalars in measured]).tolist()
    return [dict(zip(measured[0], values, strict=True)) for values in table]


def _place(epoch: int, step: int) -> str:
    return f"epoch {epoch}, step {step}"


def _named(rates: dict[str, float]) -> Line:
    return {"lr" if name == "adapter" else f"{name}_lr": rate for name, rate in rates.items()}
