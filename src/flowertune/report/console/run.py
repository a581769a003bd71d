"""Print the progress of a run and its final table."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from flowertune import signals
from flowertune.analysis.results_table import result_rows
from flowertune.analysis.settings import protocol_text
from flowertune.metrics import EVALUATED_SPLITS
from flowertune.report.console.live import TrainingView
from flowertune.report.console.table import accuracy_cells, accuracy_titles, new_table
from flowertune.runs.directory import Metrics


class ConsoleReporter:
    """Console output of a run in one of four modes.

    auto: a live view on a terminal, lines elsewhere. plain: lines everywhere. quiet: warnings and
    finally the run's path. json: one object per line on stdout, everything else on stderr.
    """

    def __init__(self, console: Console | None = None, mode: str = "auto") -> None:
        self.console = console or Console(
            stderr=mode == "json", quiet=mode == "quiet", highlight=False, soft_wrap=True
        )
        self.mode = mode
        self._progress: Progress | None = None
        self._view: TrainingView | None = None
        self._tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Print a line as it is, without rich's markup and emoji."""
        self.console.print(Text(text))

    def warn(self, text: str) -> None:
        """Print a line in every mode."""
        if self.mode == "quiet":
            print(text, file=sys.stderr)
        else:
            self.say(text)

    @property
    def _is_live(self) -> bool:
        can_redraw = self.console.is_terminal and not self.console.is_dumb_terminal
        return self.mode in ("auto", "json") and can_redraw

    def _redrawing(self) -> dict[str, Any]:
        return {
            "console": self.console,
            "transient": True,
            "redirect_stdout": sys.stdout.isatty(),  # output to a file stays as it is
            "redirect_stderr": sys.stderr.isatty(),
        }

    def _emit(self, event: str, **content: Any) -> None:
        if self.mode == "json":
            print(json.dumps({"event": event, **content}, allow_nan=False), flush=True)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show the tasks of `advance` while the body runs: as bars on a terminal, else as lines."""
        if self._is_live:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                **self._redrawing(),
            )
        try:
            with self._progress or nullcontext():
                yield
        finally:
            self._progress = None
            self._tasks.clear()

    def advance(self, description: str, done: int, total: int | None) -> None:
        """Update the progress of a task, identified by its description."""
        if self._progress is None:
            if description not in self._tasks:
                self._tasks[description] = None
                self.say(description + ("" if not total else f" ({total:,})"))
            return
        if description not in self._tasks:
            self._tasks[description] = self._progress.add_task(description, total=total)
        self._progress.update(self._tasks[description], completed=done, total=total)
        if total is not None and done >= total:
            self._progress.remove_task(self._tasks.pop(description))

    def start(self, directory: str, **run_facts: Any) -> None:
        """Announce a run: its method, backbone, tag, protocol and seed."""
        self._emit("start", run=directory, **run_facts)
        self.say(f"{run_facts['method']}: {protocol_text(run_facts)}")

    @contextmanager
    def training(
        self, epochs: int, steps_per_epoch: int, lines: Sequence[Mapping[str, Any]]
    ) -> Iterator[Callable[[str], None]]:
        """Show `step` and `epoch` as one live view on a terminal while the body runs.

        `lines`: metrics.jsonl so far, if the training resumes. Yields a function that shows a
        message and may be called in a signal handler.
        """
        if not self._is_live:
            yield signals.write
            return
        self._view = TrainingView(epochs, steps_per_epoch, lines)
        try:
            with Live(self._view, **self._redrawing()):
                yield self._view.note
        finally:
            self._view = None

    def step(self, epoch: int, done: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Report the `done`th step of an epoch; `lines`: the epoch's metrics so far."""
        if self._view is not None:
            self._view.step(epoch, done, lines[-1] if lines else None)

    def epoch(
        self, epoch: int, epochs: int, train_loss: float, val: Metrics | None, is_best: bool
    ) -> None:
        """Report the end of an epoch on one line; `val` is None without a val split."""
        self._emit(
            "epoch", epoch=epoch, epochs=epochs, train_loss=train_loss, val=val, best=is_best
        )
        if self._view is not None:
            self._view.epoch(train_loss, val)
        line = f"epoch {epoch:>{len(str(epochs))}}/{epochs}  train loss {train_loss:.4f}"
        if val is not None:
            mark = "  best so far" if is_best else ""
            line += f"  val loss {val['loss']:.4f}  val top-1 {val['top1']:.2%}{mark}"
        self.say(line)

    def results(self, results: Mapping[str, Any], directory: str) -> None:
        """Print the final tables of the method and its baselines, below the protocol."""
        self._emit("result", directory=directory, **results)
        if self.mode == "quiet":
            print(directory, flush=True)
        self.say(protocol_text(results))
        for split in EVALUATED_SPLITS:
            if split in results["splits"]:
                self.console.print(_table(results, split))
                self.say("")
        for note in results["notes"]:
            self.say(note)
        self.say(
            f"model {results['model']}, head {results['head']}, "
            f"augmentation {results['augmentation']}, loss {results['loss']}"
        )
        self.say(f"{_training_summary(results)}, {results['device']} {results['precision']}, "
                 f"seed {results['seed']}")  # fmt: skip
        self.say(directory)


def error_console() -> ConsoleReporter:
    """Create a reporter on stderr, for commands whose stdout is data."""
    return ConsoleReporter(Console(stderr=True, highlight=False, soft_wrap=True))


def _training_summary(results: Mapping[str, Any]) -> str:
    best, epochs, scale = (results[key] for key in ("best_epoch", "epochs_run", "adapter_scale"))
    if epochs == 0:
        return f"no epochs (frozen features), {results['seconds']:.1f} s"
    weights = f"last of {epochs} epochs" if best is None else f"best epoch {best} of {epochs}"
    return (
        weights
        + ("" if scale is None else f", adapter scaled by {scale:g}")
        + f", {results['seconds']:.1f} s of training and validation"
        + f", {results['images_per_second']:,.0f} images/s"
    )


def _table(results: Mapping[str, Any], split: str) -> Table:
    """Table of one split, baselines first; fits into 60 columns."""
    n_images = results["splits"][split]["n"]
    titles = [*accuracy_titles(), "trainable\nparameters"]
    table = new_table(f"{split}\n{n_images:,} images", numbers=titles)
    table.columns[1].min_width = len("91.23% [90.1, 92.3]")  # aligns the splits' tables
    for row in result_rows(results, split):
        name = Text(row.name, "bold" if row.setting else "")
        table.add_row(name, *accuracy_cells(row.metrics[0]), f"{row.trainable_parameters:,}")
    return table
