"""All that a training goes on from, put into a checkpoint and taken out of it, bit for bit."""

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
    """How far a training has come.

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
    """Where a training stands: what is trained, what trains it, and what it has shown so far.

    `lines` and `timings` are those of the epochs that ended; `kept` the trained state of the best
    of them, or of the last where nothing is selected; None before the first ended.
    """

    step: TrainStep
    best: EarlyStopping
    average: EMA | None
    progress: LoopState = field(default_factory=LoopState)
    lines: list[Metrics] = field(default_factory=list)
    timings: list[Metrics] = field(default_factory=list)
    kept: dict[str, Tensor] | None = None

    def state(self) -> State:
        """For `checkpoint.save`; the device is waited for."""
        values = {
            "progress": asdict(self.progress),
            "lines": self.lines,
            "timings": self.timings,
            "best": self.best.state(),
            "scaler": self.step.scaler.state_dict(),
            "averaged": None if self.average is None else self.average.updates,
        }
        tensors = {f"optimizer.{name}": t.cpu() for name, t in _optimizer_state(self.step)}
        for name, tensor in self.step.classifier.trainable_state().items():
            tensors[f"trained.{name}"] = tensor
        for name, tensor in (self.kept or {}).items():
            tensors[f"kept.{name}"] = tensor
        if self.average is not None:
            for place, tensor in enumerate(self.average.averaged):
                tensors[f"averaged.{place}"] = tensor.cpu()
        return values, tensors

    def restore(self, state: State) -> None:
        """Puts back what `state` gave, in place, before the first step of this process."""
        values, tensors = state
        self.progress = LoopState(**values["progress"])
        self.lines, self.timings = values["lines"], values["timings"]
        self.best.restore(values["best"])
        self.step.scaler.load_state_dict(values["scaler"])
        self.step.classifier.load_trainable_state(_part(tensors, "trained."))
        self.kept = _part(tensors, "kept.") or None
        optimizer = self.step.optimizer
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
            place, _, key = name.partition(".")
            moments.setdefault(int(place), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.average is not None:
            self.average.updates = values["averaged"]
            for number, own in enumerate(self.average.averaged):
                own.copy_(tensors[f"averaged.{number}"])


def _optimizer_state(step: TrainStep) -> Iterator[tuple[str, Tensor]]:
    """What the optimizer keeps of each parameter: "0.exp_avg" and the like."""
    for place, parameter in enumerate(step.trained):
        for key, value in step.optimizer.state.get(parameter, {}).items():
            assert isinstance(value, torch.Tensor)  # all of a fused AdamW's are
            yield f"{place}.{key}", value


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


class Checkpointer:
    """Puts into the run all that a training goes on from.

    `minutes` may pass between savings (None: any number), besides those that somebody asks for.
    """

    def __init__(
        self, run: Run, standing: TrainState, steps_per_epoch: int, minutes: float | None,
        stop: StopRequest, console: ConsoleReporter,
    ) -> None:  # fmt: skip
        self.run = run
        self.standing = standing
        self.steps_per_epoch = steps_per_epoch
        self.minutes = minutes
        self.stop = stop
        self.console = console
        self._at = time.monotonic()

    def due(self) -> bool:
        """Whether it is time, or the training is to end."""
        late = self.minutes is not None and time.monotonic() - self._at >= 60 * self.minutes
        return late or self.stop.received is not None

    def save(self) -> None:
        """Where nothing is half done: after a step, before a validation, after an epoch.

        Raises files.DiskFullError, or another OSError; what was saved before is there then.
        """
        progress = self.standing.progress
        ended = progress.epoch - 1
        steps = ended * self.steps_per_epoch + progress.done
        checkpoint.save(self.run, ended, steps, self.standing.state())
        self._at = time.monotonic()
        if self.stop.received is not None:
            self.console.say(f"saved after {self.place()}; the same command goes on")

    def place(self) -> str:
        """Where the training stands, for a person."""
        progress = self.standing.progress
        if progress.done == 0:
            return f"epoch {progress.epoch - 1}"
        if progress.done == self.steps_per_epoch:
            return f"the steps of epoch {progress.epoch}, before its validation"
        return f"epoch {progress.epoch}, step {progress.done}"
