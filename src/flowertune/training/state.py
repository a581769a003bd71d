"""Hold everything a training goes on from, and save and load it bit for bit."""

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from flowertune import files
from flowertune.config.trainer import TrainerConfig
from flowertune.data.loader import TrainLoader
from flowertune.metrics import SplitMetrics
from flowertune.models.serialization import to_safetensors
from flowertune.runs.directory import CHECKPOINTS_KEPT, Metrics, Run
from flowertune.training.batches import Numbered
from flowertune.training.cuda_graph import Scalars
from flowertune.training.early_stopping import EarlyStopping
from flowertune.training.ema import EMA
from flowertune.training.step import TrainStep, check_finite

STATE, TENSORS = "state.json", "tensors.safetensors"  # of a checkpoint: nothing is pickled
PROGRESS = ("epoch", "done", "applied", "lines", "train_seconds")  # of state.json


class TrainState:
    """State of a training: weights, optimizer, progress and metrics so far.

    `epoch`, from 1, is the one in work, `done` counts its steps so far, `updates` all steps that
    changed the weights (fp16's scaler skips some). `epoch_lines` are the metrics of the epoch in
    work, one line a step, and `train_seconds` is what these steps took. `lines` and `timings` are
    those of the epochs that ended. `best_state`: the trained weights of the best of these, or of
    the last where nothing is selected; None before the first ended.
    """

    def __init__(self, step: TrainStep, loader: TrainLoader, settings: TrainerConfig) -> None:
        self.step, self.loader, self.settings = step, loader, settings
        self.steps_per_epoch = len(self.step_indices(1))
        self.early_stopping = EarlyStopping(settings.monitor, settings.patience, settings.min_delta)
        self.ema = None if settings.ema is None else EMA(step.parameters, settings.ema)
        self.epoch, self.done, self.updates = 1, 0, 0
        self.epoch_lines: list[Metrics] = []
        self.train_seconds = 0.0
        self.lines: list[Metrics] = []
        self.timings: list[Metrics] = []
        self.best_state: dict[str, Tensor] | None = None
        self.saved_at = time.monotonic()
        self._queued: list[tuple[Metrics, Scalars]] = []

    def step_indices(self, epoch: int) -> list[list[Numbered]]:
        """List the steps of an epoch by their batches, of which the last step may have fewer."""
        numbered, n = list(enumerate(self.loader.batches(epoch))), self.settings.accumulation
        return [numbered[i : i + n] for i in range(0, len(numbered), n)]

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

    @property
    def is_late(self) -> bool:
        """Whether more than `checkpoint_minutes` have passed since the last checkpoint."""
        minutes = self.settings.checkpoint_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def save(self, run: Run) -> None:
        """Save a checkpoint: after a step, before a validation, after an epoch."""
        progress = (self.epoch, self.done, self.updates, self.epoch_lines, self.train_seconds)
        values = {
            "progress": dict(zip(PROGRESS, progress, strict=True)),
            "lines": self.lines,
            "timings": self.timings,
            "best": self.early_stopping.state(),
            "scaler": self.step.scaler.state_dict(),
            "averaged": None if self.ema is None else self.ema.updates,
        }
        groups: dict[str, Mapping[str, Tensor]] = {
            "trained": self.step.classifier.trainable_state(),
            "kept": self.best_state or {},
            "averaged": {}
            if self.ema is None
            else {str(index): tensor for index, tensor in enumerate(self.ema.averaged)},
            "optimizer": {
                f"{index}.{key}": tensor
                for index, moments in self.step.optimizer.state_dict()["state"].items()
                for key, tensor in moments.items()
            },
        }
        tensors = {
            f"{group}.{name}": tensor.cpu()
            for group, named in groups.items()
            for name, tensor in named.items()
        }
        steps = (self.epoch - 1) * self.steps_per_epoch + self.done
        save_checkpoint(run, self.epoch - 1, steps, values, tensors)
        self.saved_at = time.monotonic()

    def load(self, path: Path) -> None:
        """Load a checkpoint, in place, before the first step of this process."""
        values, tensors = load_checkpoint(path)
        self.epoch, self.done, self.updates, self.epoch_lines, self.train_seconds = (
            values["progress"][name] for name in PROGRESS
        )
        self.lines, self.timings = values["lines"], values["timings"]
        vars(self.early_stopping).update(values["best"])
        self.step.scaler.load_state_dict(values["scaler"])
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.step.classifier.load_trainable_state(groups["trained"])
        self.best_state = groups["kept"] or None
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in groups["optimizer"].items():
            index, _, key = name.partition(".")
            moments[int(index)][key] = tensor
        optimizer = self.step.optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        if self.ema is not None:
            self.ema.updates = values["averaged"]
            for number, averaged in enumerate(self.ema.averaged):
                averaged.copy_(groups["averaged"][str(number)])

    def describe(self) -> str:
        """Say how far the training has come."""
        if self.done == 0:
            return f"epoch {self.epoch - 1}"
        if self.done == self.steps_per_epoch:
            return f"the steps of epoch {self.epoch}, before its validation"
        return f"epoch {self.epoch}, step {self.done}"


def save_checkpoint(
    run: Run, epochs: int, step: int, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Save a checkpoint after so many epochs and steps into the run; older ones but one go.

    Raises files.DiskFullError, or another OSError; what was saved before is there then.
    """
    path = run.checkpoint(epochs, step)
    if path.exists():  # gone on from, and stopped before the next step
        return
    path.parent.mkdir(exist_ok=True)
    state_file = json.dumps(values, allow_nan=False).encode()  # long: without indents it is quick
    files.write_folder(path, {STATE: state_file, TENSORS: to_safetensors(tensors)})
    for old in run.checkpoints()[CHECKPOINTS_KEPT:]:
        shutil.rmtree(old)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_checkpoint` got; the caller has verified that the files are whole."""
    values = json.loads((path / STATE).read_text(encoding="utf-8"))
    return values, load_file(path / TENSORS)
