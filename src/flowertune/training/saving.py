"""When a training is saved, and in which words a person hears of it."""

import time

from flowertune.report.console.run import RunConsole
from flowertune.runs.directory import Run
from flowertune.signals import Stop
from flowertune.training import checkpoint
from flowertune.training.standing import Standing


class Saving:
    """Puts into the run all that a training goes on from.

    `minutes` may pass between savings (None: any number), besides those that somebody asks for.
    """

    def __init__(
        self, run: Run, standing: Standing, steps_per_epoch: int, minutes: float | None,
        stop: Stop, console: RunConsole,
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

        Raises files.DiskFull, or another OSError; what was saved before is there then.
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
