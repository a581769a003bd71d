"""Read a finished run: its config, its results and its predictions."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowertune.config import saved
from flowertune.config.model import model_config
from flowertune.errors import UsageError, printable
from flowertune.runs.directory import Run, damaged_message


@dataclass(frozen=True)
class Prediction:
    """Image with its label and its likeliest classes with probabilities, likeliest first.

    `path` is the photo's as the file has it. Classes are named as they are shown, without control
    characters.
    """

    path: str
    label: str
    ranked: tuple[tuple[str, float], ...]
    is_correct: bool

    @property
    def predicted(self) -> str:
        return self.ranked[0][0]

    @property
    def probability(self) -> float:
        return self.ranked[0][1]


@dataclass(frozen=True)
class FinishedRun:
    """Run with its results and its config values by dotted key."""

    run: Run
    results: dict[str, Any]
    values: dict[str, Any]

    @property
    def depends_on_seed(self) -> bool:
        """Whether another seed would give another result."""
        return seed_matters(self.values["model.name"], self.values["probe.solver"])

    @property
    def reported_split(self) -> str:
        """Split whose images are reported one by one."""
        return "test" if "test" in self.results["splits"] else "val"

    def predictions(self, split: str) -> tuple[Prediction, ...]:
        """Read the predictions of a split, in the order of its images.

        Raises:
            UsageError: the file is missing or damaged, or is not of the photos that were measured.
        """
        name = f"predictions-{split}.csv"
        try:
            with (self.run.path / name).open(encoding="utf-8", newline="") as file:
                _, *rows = csv.reader(file)
            predictions = tuple(map(_prediction, rows))
        except (OSError, ValueError, csv.Error) as error:
            raise UsageError(damaged_message(self.run.path, name)) from error
        n_images = self.results["splits"][split]["n"]
        if len(predictions) != n_images or len({each.path for each in predictions}) != n_images:
            raise UsageError(damaged_message(self.run.path, name))
        return predictions


def _prediction(row: Sequence[str]) -> Prediction:
    path, label, predicted, *_ = row
    pairs = [(name, float(p)) for name, p in zip(row[2::2], row[3::2], strict=True)]
    if not all(0 <= p <= 1 for _, p in pairs):
        raise ValueError(f"not probabilities: {row}")
    named = tuple((printable(name), p) for name, p in pairs)
    return Prediction(path, printable(label), named, label == predicted)


def seed_matters(model: str, solver: str) -> bool:
    """Whether the seed changes the result; not for zero-shot or an L-BFGS probe."""
    config = model_config(model)
    return config.trains_backbone or (config.is_probe and solver != "lbfgs")


def finished_run(path: Path) -> Run:
    """Open the run at `path`. Raises UsageError if it is not finished."""
    run = Run(path)
    state, _ = run.status()
    if state != "finished":
        hint = "" if path.is_dir() else "; there is no such directory"
        raise UsageError(
            f"{path}: is no finished run" + (hint if state == "unknown" else f": {state}")
        )
    return run


def read_finished_run(path: Path) -> FinishedRun:
    """Read the results and config of the run at `path`.

    Raises:
        UsageError: it is no finished run, or a file of it is damaged.
    """
    run = finished_run(path)
    try:
        config = saved.read_values(path / "config.yaml")
        return FinishedRun(run, run.results(), saved.flatten_with_defaults(config))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(damaged_message(path, "config.yaml")) from error
