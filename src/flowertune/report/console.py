"""What a person sees while a run goes on, and the table at its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

BASELINE_NAMES = {"zeroshot": "zero-shot", "linear_probe": "linear probe"}


class RunConsole:
    """Progress bars and one line an epoch on a terminal; plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """One plain line; what it says is not taken for markup."""
        self.console.print(text, markup=False)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """While it is open, `advance` shows bars (on a terminal) or a line when work begins."""
        if not self.console.is_terminal:
            try:
                yield
            finally:
                self._tasks.clear()
            return
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        with bar:
            self._progress = bar
            try:
                yield
            finally:
                self._progress = None
                self._tasks.clear()

    def advance(self, description: str, done: int, total: int | None) -> None:
        """Shows how far a piece of work is; the description tells pieces apart."""
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

    def step(self, epoch: int, epochs: int, done: int, total: int) -> None:
        """A step of training was made; shown on a terminal alone."""
        if self._progress is not None:
            self.advance(f"epoch {epoch}/{epochs}", done, total)

    def epoch(
        self, epoch: int, epochs: int, train_loss: float, val: Mapping[str, Any], is_best: bool
    ) -> None:
        """An epoch ended: one line."""
        mark = "  best so far" if is_best else ""
        self.say(
            f"epoch {epoch:>{len(str(epochs))}}/{epochs}  train loss {train_loss:.4f}  "
            f"val loss {val['loss']:.4f}  val top-1 {val['top1']:.2%}{mark}"
        )

    def results(self, results: Mapping[str, Any], directory: str) -> None:
        """The final table: the method beside its baselines, and under what protocol."""
        splits = [name for name in ("val", "test") if name in results["splits"]]
        table = Table(title=_title(results), title_justify="left", show_edge=False, pad_edge=False)
        table.add_column("", no_wrap=True)
        for split in splits:
            count = results["splits"][split]["n"]
            table.add_column(f"{split} top-1\n({count:,} photos)", justify="right", no_wrap=True)
            table.add_column(f"{split} mean\nper class", justify="right", no_wrap=True)
        table.add_column("trained\nparameters", justify="right", no_wrap=True)
        for key, name in BASELINE_NAMES.items():
            baseline = results["baselines"].get(key)
            if baseline is not None:
                trained = baseline["trainable_parameters"]
                table.add_row(name, *_cells(baseline["splits"], splits), f"{trained:,}")
        table.add_row(
            f"[bold]{results['method']}[/bold]",
            *_cells(results["splits"], splits),
            f"{results['trainable_parameters']:,}",
        )
        self.console.print(table)
        for note in results["notes"]:
            self.say(note)
        self.say(
            f"best epoch {results['best_epoch']} of {results['epochs_run']}, "
            f"{results['seconds']:.1f} s of training and validation, "
            f"{results['images_per_second']:,.0f} images/s, "
            f"{results['device']} {results['precision']}, seed {results['seed']}"
        )
        self.say(directory)


def _title(results: Mapping[str, Any]) -> str:
    return f"{results['backbone']} {results['tag']}; {results['protocol']}"


def _cells(measured: Mapping[str, Any], splits: list[str]) -> list[str]:
    cells = []
    for split in splits:
        metrics = measured[split]
        low, high = metrics["top1_interval"]
        cells.append(f"{metrics['top1']:.2%} [dim]\\[{100 * low:.1f}, {100 * high:.1f}][/dim]")
        cells.append(f"{metrics['mean_per_class']:.2%}")
    return cells
