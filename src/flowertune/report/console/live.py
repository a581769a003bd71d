"""Show a training live on a terminal: progress, time left, metrics."""

import math
import re
import textwrap
import time
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from statistics import fmean
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
LONGEST_CURVE = 60  # characters


class TrainingView:
    """Progress of a training that goes on from `lines` of metrics.jsonl, in any width."""

    def __init__(self, epochs: int, steps_per_epoch: int, lines: Sequence[Mapping[str, Any]]):
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._epoch, self._steps_done = 1, 0
        self._top1 = [line["top1"] for line in lines if line["split"] == "val"]
        steps = [line for line in lines if line["split"] == "train"]
        epochs_done = groupby(steps, itemgetter("epoch"))
        self._losses = [fmean(line["loss"] for line in group) for _, group in epochs_done]
        self._terms: Mapping[str, Any] = {}
        self._start_time: float | None = None
        self._first_step = 0
        self._last_step_time = 0.0  # when the last step ended
        self._note = ""

    def step(self, epoch: int, done: int, line: Mapping[str, Any] | None) -> None:
        """Record the `done`th step of an epoch; `line` is its metrics, if known."""
        if self._start_time is None:  # from the first step's end: what it sets up comes once
            self._start_time = time.monotonic()
            self._first_step = (epoch - 1) * self._steps_per_epoch + done
        self._last_step_time = time.monotonic()
        self._epoch, self._steps_done = epoch, done
        self._terms = line or self._terms

    def epoch(self, train_loss: float, val: Mapping[str, Any] | None) -> None:
        """Record the end of an epoch, as `ConsoleReporter.epoch` does."""
        self._losses.append(train_loss)
        if val is not None:
            self._top1.append(val["top1"])

    def note(self, text: str) -> None:
        """Set the last line. Only stores it, so that a signal handler may call it at any time."""
        self._note = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        total = self._epochs * self._steps_per_epoch
        done = (self._epoch - 1) * self._steps_per_epoch + self._steps_done
        head = Table.grid(padding=(0, 1))
        head.add_column(no_wrap=True)
        head.add_column()
        head.add_column(no_wrap=True)
        head.add_row(
            f"epoch {self._epoch}/{self._epochs}",
            ProgressBar(total=total, completed=done, width=40),
            f"step {done:,}/{total:,}  {self._time_left(done, total)}",
        )
        yield head
        width = max(1, options.max_width - len("^C"))  # which a terminal may put behind a row
        rows = _term_rows(self._terms, width)
        if self._top1:
            highest = max(self._top1)
            rows.append(f"val top-1 {self._top1[-1]:.2%}, highest {highest:.2%} after epoch "
                        f"{self._top1.index(highest) + 1}")  # fmt: skip
        rows += self._curves(options)
        rows += textwrap.wrap(self._note, width)
        for row in rows:
            yield Text(row[:width], no_wrap=True)

    def _time_left(self, done: int, total: int) -> str:
        if self._start_time is None or done == self._first_step:
            return "-:--:-- left"
        pace = (self._last_step_time - self._start_time) / (done - self._first_step)
        seconds = max(0, round(pace * (total - done) - (time.monotonic() - self._last_step_time)))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _curves(self, options: ConsoleOptions) -> list[str]:
        room = min(LONGEST_CURVE, options.max_width - 40)
        blocks = PLAIN_BLOCKS if options.ascii_only else BLOCKS
        if room < 8:
            return []
        series = (("train loss", self._losses, ".4f"), ("val top-1", self._top1, ".2%"))
        return [
            f"{name:<10}  {curve(values, room, blocks)}  {values[0]:{form}} to {values[-1]:{form}}"
            for name, values, form in series
            if len(values) > 1
        ]


def curve(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """Draw one character per value, or per bin if there are more than `width` values."""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    least, most = min(means), max(means)
    if math.isclose(least, most):
        return blocks[0] * count
    scale = (len(blocks) - 1) / (most - least)
    return "".join(blocks[round((mean - least) * scale)] for mean in means)


def _term_rows(line: Mapping[str, Any], width: int) -> list[str]:
    """Wrap loss terms, then learning rates, of a step: loss 0.6931  lr 1.0e-03."""
    names = [name for name in line if name not in ("step", "epoch", "split")]
    names.sort(key=lambda name: name.endswith("lr"))
    terms = [
        f"{name} {line[name]:{'.1e' if name.endswith('lr') else '.4f'}}"
        for name in names
        if line[name] is not None
    ]
    # textwrap does not break at these
    text = "  ".join(re.sub("[ _]", "\N{NO-BREAK SPACE}", term) for term in terms)
    rows = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [row.replace("\N{NO-BREAK SPACE}", " ") for row in rows]
