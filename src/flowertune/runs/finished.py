"""Open a finished run: the one door to what it left."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from flowertune.config import saved
from flowertune.config.model import model_config
from flowertune.config.probe import SEEDLESS_SOLVERS
from flowertune.config.schema import Config
from flowertune.errors import UsageError, printable
from flowertune.metrics import reported_split
from flowertune.runs.directory import REPORT_DATA, Metrics, Run, RunImage, damaged_message
from flowertune.runs.report_data import ReportData, read_report_data

_LINE_KEYS = {  # split -> what each of its lines in metrics.jsonl has; the loss's terms come on top
    "train": {"step", "epoch", "loss", "lr", "head_lr", "gradient_norm"},
    "val": {"epoch", "loss", "top1", "top5", "mean_per_class"},
}
_Row = TypeVar("_Row")


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
    """A finished run, whose files are each read when they are first asked for.

    values: its config by dotted key. What is missing or damaged raises UsageError.
    """

    run: Run
    values: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def name(self) -> str:
        """Name of the run, even if its directory was given as "."."""
        return self.path.absolute().name

    @property
    def adapter(self) -> Path:
        """Folder of the adapter, the head, the labels and the preprocessing."""
        return self.run.adapter

    @cached_property
    def config(self) -> Config:
        """Config of the run, checked."""
        with self.run.reading("config.yaml") as path:
            return saved.read_config(path)

    @property
    def config_text(self) -> str:
        """Content of config.yaml."""
        with self.run.reading("config.yaml") as path:
            return path.read_text(encoding="utf-8")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Content of environment.json."""
        return self.run.environment()

    @cached_property
    def results(self) -> dict[str, Any]:
        """Content of results.json."""
        return self.run.results()

    @property
    def depends_on_seed(self) -> bool:
        """Whether another seed would give another result."""
        return seed_matters(self.values["model.name"], self.values["probe.solver"])

    @property
    def reported_split(self) -> str:
        """Split whose images are reported one by one."""
        return reported_split(self.results["splits"])

    @cached_property
    def images(self) -> dict[str, list[RunImage]]:
        """Images of each split, in the order of photos.csv; of "train" there are some."""
        images: dict[str, list[RunImage]] = {}
        for image in self._table("photos.csv", lambda row: RunImage(*row)):
            images.setdefault(image.split, []).append(image)
        if "train" not in images:
            raise UsageError(damaged_message(self.path, "photos.csv"))
        return images

    def predictions(self, split: str) -> tuple[Prediction, ...]:
        """Read the predictions of a split, in the order of its images.

        Raises:
            UsageError: the file is missing or damaged, or is not of the images that were measured.
        """
        name, n_images = f"predictions-{split}.csv", self.results["splits"][split]["n"]
        predictions = tuple(self._table(name, _prediction))
        if not len(predictions) == len({each.path for each in predictions}) == n_images:
            raise UsageError(damaged_message(self.path, name))
        return predictions

    @cached_property
    def reported_predictions(self) -> tuple[Prediction, ...]:
        """Predictions of the reported split."""
        return self.predictions(self.reported_split)

    @cached_property
    def steps(self) -> list[Metrics]:
        """Lines of metrics.jsonl of the training's steps; none of a run without epochs."""
        return [line for line in self._lines if line["split"] == "train"]

    @cached_property
    def validations(self) -> list[Metrics]:
        """Lines of metrics.jsonl of the validations."""
        return [line for line in self._lines if line["split"] == "val"]

    @cached_property
    def _lines(self) -> list[Metrics]:
        is_trained = self.results["epochs_run"] > 0
        with self.run.reading("metrics.jsonl") as path:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if bool(lines) != is_trained or not all(map(_is_whole, lines)):
                raise ValueError("not the lines of this training")
        return lines

    def _table(self, name: str, parse: Callable[[list[str]], _Row]) -> list[_Row]:
        """Parse each row of a .csv file but its header."""
        with self.run.reading(name) as path, path.open(encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(file)
            return [parse(row) for row in rows]

    @cached_property
    def report_data(self) -> ReportData | str:
        """What the run keeps of its images, or why there is nothing."""
        return read_report_data(self.path / REPORT_DATA)


def _prediction(row: Sequence[str]) -> Prediction:
    path, label, predicted, *_ = row
    pairs = zip(row[2::2], row[3::2], strict=True)
    ranked = tuple((printable(name), float(probability)) for name, probability in pairs)
    if not all(0 <= probability <= 1 for _, probability in ranked):
        raise ValueError(f"not probabilities: {row}")
    return Prediction(path, printable(label), ranked, label == predicted)


def _is_whole(line: Any) -> bool:
    return (
        isinstance(line, dict)
        and line.keys() >= _LINE_KEYS.get(str(line.get("split")), {"split"})
        and line.get("split") in _LINE_KEYS
        and all(isinstance(value, int | float) for key, value in line.items() if key != "split")
    )


def seed_matters(model: str, solver: str) -> bool:
    """Whether the seed changes the result; not for zero-shot or a probe without draws."""
    config = model_config(model)
    return config.trains_backbone or (config.is_probe and solver not in SEEDLESS_SOLVERS)


def read_finished_run(path: Path) -> FinishedRun:
    """Open the run at `path`.

    Raises:
        UsageError: it is no finished run, a newer flowertune made it, or its config is damaged.
    """
    run = Run(path)
    state, _ = run.status()
    if state != "finished":
        hint = "" if path.is_dir() else "; there is no such directory"
        raise UsageError(
            f"{path}: is no finished run" + (hint if state == "unknown" else f": {state}")
        )
    run.check_version()
    with run.reading("config.yaml") as file:
        return FinishedRun(run, saved.read_flat(file))
