"""Put the whole state of a training into a checkpoint and restore it, bit for bit."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import Metrics, Run
from flowertune.signals import StopRequest
from flowertune.training import checkpoint
from flowertune.training.checkpoint import State
from flowertune.training.early_stopping import EarlyStopping
from flowertune.training.ema import EMA
from flowertune.training.step import TrainStep


@dataclass
class LoopState:
    """Progress of the loop.

    `epoch`, from 1, is the one in work, `done` its steps so far, `applied` all steps that changed
    the weights (fp16's scaler skips some). `lines` are those of the epoch in work, one a step,
    `train_seconds` what these steps took.
    """

    epoch: int = 1
    done: int = 0
    applied: int = 0
    lines: list[Metrics] = field(default_factory=list)
    train_seconds: float = 0.0


@dataclass
class TrainState:
    """State of a training: model, optimizer, progress and metrics so far.

    `lines` and `timings` are those of the epochs that ended; `best_state` that of the best
    of them, or of the last where nothing is selected; None before the first ended.
    """

    step: TrainStep
    early_stopping: EarlyStopping
    ema: EMA | None
    progress: LoopState = field(default_factory=LoopState)
    lines: list[Metrics] = field(default_factory=list)
    timings: list[Metrics] = field(default_factory=list)
    best_state: dict[str, Tensor] | None = None

    def state(self) -> State:
        """Return the state for `checkpoint.save`; the device is waited for."""
        values = {
            "progress": asdict(self.progress),
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
        return values, tensors

    def restore(self, state: State) -> None:
        """Load a state from `state`, in place, before the first step of this process."""
        values, tensors = state
        self.progress = LoopState(**values["progress"])
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


class Checkpointer:
    """Save the state of a training into its run.

    `minutes` may pass between checkpoints (None: any number), besides those that `stop` asks for.
    """

    def __init__(
        self, run: Run, state: TrainState, steps_per_epoch: int, minutes: float | None,
        stop: StopRequest, console: ConsoleReporter,
    ) -> None:  # fmt: skip
        self.run = run
        self.state = state
        self.steps_per_epoch = steps_per_epoch
        self.minutes = minutes
        self.stop = stop
        self.console = console
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save, or the training is to end."""
        late = self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes
        return late or self.stop.received is not None

    def save(self) -> None:
        """Save a checkpoint: after a step, before a validation, after an epoch.

        Raises files.DiskFullError, or another OSError; what was saved before is there then.
        """
        progress = self.state.progress
        ended = progress.epoch - 1
        steps = ended * self.steps_per_epoch + progress.done
        checkpoint.save(self.run, ended, steps, self.state.state())
        self._saved_at = time.monotonic()
        if self.stop.received is not None:
            self.console.say(f"saved after {self.describe_progress()}; the same command goes on")

    def describe_progress(self) -> str:
        """Describe the progress of the training for a person."""
        progress = self.state.progress
        if progress.done == 0:
            return f"epoch {progress.epoch - 1}"
        if progress.done == self.steps_per_epoch:
            return f"the steps of epoch {progress.epoch}, before its validation"
        return f"epoch {progress.epoch}, step {progress.done}"
