"""Hold everything a training goes on from, and save and load it bit for bit."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from flowertune.config.trainer import TrainerConfig
from flowertune.data.loader import TrainLoader
from flowertune.metrics import SplitMetrics
from flowertune.runs.directory import Metrics, Run
from flowertune.training import checkpoint
from flowertune.training.batches import step_indices
from flowertune.training.cuda_graph import Scalars
from flowertune.training.early_stopping import EarlyStopping
from flowertune.training.ema import EMA
from flowertune.training.nonfinite import check_finite
from flowertune.training.step import TrainStep

PROGRESS = ("epoch", "done", "applied", "lines", "train_seconds")  # of a checkpoint's state.json


@dataclass
class TrainState:
    """State of a training: weights, optimizer, progress and metrics so far.

    `epoch`, from 1, is the one in work, `done` counts its steps so far, `updates` all steps that
    changed the weights (fp16's scaler skips some). `epoch_lines` are the metrics of the epoch in
    work, one line a step, and `train_seconds` is what these steps took. `lines` and `timings` are
    those of the epochs that ended. `best_state`: the trained weights of the best of these, or of
    the last where nothing is selected; None before the first ended.
    """

    step: TrainStep
    early_stopping: EarlyStopping
    ema: EMA | None
    steps_per_epoch: int
    epoch: int = 1
    done: int = 0
    updates: int = 0
    epoch_lines: list[Metrics] = field(default_factory=list)
    train_seconds: float = 0.0
    lines: list[Metrics] = field(default_factory=list)
    timings: list[Metrics] = field(default_factory=list)
    best_state: dict[str, Tensor] | None = None
    saved_at: float = field(default_factory=time.monotonic)
    _queued: list[tuple[Metrics, Scalars]] = field(default_factory=list)

    @classmethod
    def new(cls, step: TrainStep, loader: TrainLoader, settings: TrainerConfig) -> "TrainState":
        """Return the state before the first step."""
        return cls(
            step,
            EarlyStopping(settings.monitor, settings.patience, settings.min_delta),
            None if settings.ema is None else EMA(step.parameters, settings.ema),
            len(step_indices(loader, 1, settings.accumulation)),
        )

    @property
    def step_label(self) -> str:
        """Name of the next step, for an error."""
        return f"epoch {self.epoch}, step {self.done + 1}"

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Give the model the averaged weights inside, if there is an average."""
        return nullcontext() if self.ema is None else self.ema.average_parameters()

    def end_step(self, rates: Mapping[str, float], terms: Scalars, updated: bool) -> None:
        """Count a step, average its weights and log its learning rates and terms of the loss.

        Where the host does not wait for steps, the terms stay on the device until `fetch_terms`.
        """
        self.done += 1
        self.updates += updated
        if updated and self.ema is not None:
            self.ema.update()
        number = (self.epoch - 1) * self.steps_per_epoch + self.done
        named = {"lr" if name == "adapter" else f"{name}_lr": rate for name, rate in rates.items()}
        line = {"step": number, "epoch": self.epoch, "split": "train", **named}
        self._queued.append((line, terms))
        if not self.step.deferred:  # the host has waited for the step in any case
            self.fetch_terms()

    def fetch_terms(self) -> None:
        """Fetch the terms of the queued steps from the device, in one piece, into `epoch_lines`.

        Raises:
            NonFiniteError: of a step that the host did not wait for.
        """
        queued, self._queued = self._queued, []
        if not queued:
            return
        names, precision = list(queued[0][1]), self.step.compute.precision
        table = torch.stack([torch.stack(list(terms.values())) for _, terms in queued]).tolist()
        for (line, _), values in zip(queued, table, strict=True):
            line.update(zip(names, values, strict=True))
            if self.step.deferred:
                label = f"epoch {self.epoch}, step {len(self.epoch_lines) + 1}"
                check_finite(line["loss"], line["gradient_norm"], label, precision)
            if not math.isfinite(line["gradient_norm"]):  # fp16's scaler skipped the step
                line["gradient_norm"] = None
            self.epoch_lines.append(line)

    def end_epoch(self, val: SplitMetrics | None, val_seconds: float) -> Metrics | None:
        """Move the epoch's metrics to those of the ended epochs; returns val's line, if any."""
        val_line = None if val is None else {
            "step": self.epoch * self.steps_per_epoch, "epoch": self.epoch, "split": "val",
            "loss": val.loss, "top1": val.top1, "top5": val.top5,
            "mean_per_class": val.mean_per_class,
        }  # fmt: skip
        self.lines += self.epoch_lines if val_line is None else [*self.epoch_lines, val_line]
        self.timings.append(
            {"epoch": self.epoch, "train_seconds": self.train_seconds, "val_seconds": val_seconds}
        )
        self.epoch, self.done, self.epoch_lines, self.train_seconds = self.epoch + 1, 0, [], 0.0
        return val_line

    def write_metrics(self, run: Run) -> None:
        """Write the metrics and timings of the epochs that ended."""
        run.write_lines("metrics.jsonl", self.lines)
        run.write_lines("timings.jsonl", self.timings)

    def is_late(self, minutes: float | None) -> bool:
        """Whether more than `minutes` (None: any number) have passed since the last checkpoint."""
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def save(self, run: Run) -> None:
        """Save a checkpoint: after a step, before a validation, after an epoch.

        Raises files.DiskFullError, or another OSError; what was saved before is there then.
        """
        progress = (self.epoch, self.done, self.updates, self.epoch_lines, self.train_seconds)
        values = {
            "progress": dict(zip(PROGRESS, progress, strict=True)),
            "lines": self.lines,
            "timings": self.timings,
            "best": self.early_stopping.state(),
            "scaler": self.step.scaler.state_dict(),
            "averaged": None if self.ema is None else self.ema.updates,
        }
        tensors = {f"optimizer.{name}": t.cpu() for name, t in _optimizer_state(self.step)}
        for name, tensor in self.step.classifier.trainable_state().items():
            tensors[f"trained.{name}"] = tensor
        for name, tensor in (self.best_state or {}).items():
            tensors[f"kept.{name}"] = tensor
        if self.ema is not None:
            for index, tensor in enumerate(self.ema.averaged):
                tensors[f"averaged.{index}"] = tensor.cpu()
        steps = (self.epoch - 1) * self.steps_per_epoch + self.done
        checkpoint.save(run, self.epoch - 1, steps, (values, tensors))
        self.saved_at = time.monotonic()

    def load(self, path: Path) -> None:
        """Load a checkpoint, in place, before the first step of this process."""
        values, tensors = checkpoint.load(path)
        self.epoch, self.done, self.updates, self.epoch_lines, self.train_seconds = (
            values["progress"][name] for name in PROGRESS
        )
        self.lines, self.timings = values["lines"], values["timings"]
        self.early_stopping.restore(values["best"])
        self.step.scaler.load_state_dict(values["scaler"])
        self.step.classifier.load_trainable_state(_select(tensors, "trained."))
        self.best_state = _select(tensors, "kept.") or None
        optimizer = self.step.optimizer
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _select(tensors, "optimizer.").items():
            number, _, key = name.partition(".")
            moments.setdefault(int(number), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.ema is not None:
            self.ema.updates = values["averaged"]
            for index, averaged in enumerate(self.ema.averaged):
                averaged.copy_(tensors[f"averaged.{index}"])

    def describe(self) -> str:
        """Say how far the training has come."""
        if self.done == 0:
            return f"epoch {self.epoch - 1}"
        if self.done == self.steps_per_epoch:
            return f"the steps of epoch {self.epoch}, before its validation"
        return f"epoch {self.epoch}, step {self.done}"


def _optimizer_state(step: TrainStep) -> Iterator[tuple[str, Tensor]]:
    """Yield the optimizer's state of each parameter: "0.exp_avg" and the like."""
    for index, parameter in enumerate(step.parameters):
        for key, value in step.optimizer.state.get(parameter, {}).items():
            assert isinstance(value, torch.Tensor)  # all of a fused AdamW's are
            yield f"{index}.{key}", value


def _select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
