"""Open a finished run: the one door to what it left."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from flowertune import files
from flowertune.config import saved
from flowertune.config.model import model_config
from flowertune.config.probe import SEEDLESS_SOLVERS
from flowertune.config.schema import Config
from flowertune.errors import UsageError, printable
from flowertune.metrics import reported_split
from flowertune.runs.directory import REPORT_DATA, Metrics, Run, RunImage, damaged_message

_LINE_KEYS = {  # split -> what each of its lines in metrics.jsonl has; the loss's terms come on top
    "train": {"step", "epoch", "loss", "lr", "head_lr", "gradient_norm"},
    "val": {"epoch", "loss", "top1", "top5", "mean_per_class"},
}
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Prediction:
    """Image with its label and its likeliest classes with probabilities, likeliest first.

    `path` is as the file has it; classes are named as they are shown, without control characters.
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
class ReportData:
    """Images and embeddings that a run keeps for its report.

    images: the content of photos.json. rows: (M,) into the reported split's predictions. after,
    before: unit-length float32 embeddings (M, E) by the trained and by the frozen backbone;
    `before` is None if unchanged or unknown.
    """

    images: dict[str, Any]
    rows: NDArray[np.int64]
    after: NDArray[np.float32]
    before: NDArray[np.float32] | None


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
        """Read the predictions of a split, in the order of its images, which were measured."""
        name, n_images = f"predictions-{split}.csv", self.results["splits"][split]["n"]
        predictions = tuple(self._table(name, _prediction))
        if not len(predictions) == len({each.path for each in predictions}) == n_images:
            raise UsageError(damaged_message(self.path, name))
        return predictions

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
        with self.run.reading(name) as path, path.open(encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(file)
            return [parse(row) for row in rows]

    @cached_property
    def report_data(self) -> ReportData | str:
        """What the run keeps of its images; where it is not whole, why."""
        folder = self.path / REPORT_DATA
        if not folder.exists():
            return f"{folder}: the run has kept no photos for its report"
        try:
            problem = files.find_corruption(folder)  # what is as it was written is right
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem is not None:
            return f"{folder}: {problem}; the report is without photos and embeddings"
        tensors = load_file(folder / "embeddings.safetensors")
        frozen = tensors.get("before")
        return ReportData(
            images=json.loads((folder / "photos.json").read_text(encoding="utf-8")),
            rows=tensors["rows"],
            after=tensors["after"].astype(np.float32),
            before=None if frozen is None else frozen.astype(np.float32),
        )


def _prediction(row: Sequence[str]) -> Prediction:
    path, label, predicted, *_ = row
    pairs = zip(row[2::2], row[3::2], strict=True)
    ranked = tuple((printable(name), float(probability)) for name, probability in pairs)
    if not all(0 <= probability <= 1 for _, probability in ranked):
        raise ValueError(f"not probabilities: {row}")
    return Prediction(path, printable(label), ranked, label == predicted)


def _is_whole(line: Any) -> bool:
    keys = _LINE_KEYS[line["split"]]  # raises for what is no line at all, which is damage too
    numbers = (value for key, value in line.items() if key != "split")
    return line.keys() >= keys and all(isinstance(value, int | float) for value in numbers)


def seed_matters(model: str, solver: str) -> bool:
    """Whether the seed changes the result; not for zero-shot or a probe without draws."""
    config = model_config(model)
    return config.trains_backbone or (config.is_probe and solver not in SEEDLESS_SOLVERS)


def read_finished_run(path: Path) -> FinishedRun:
    """Open the run at `path`.

    Raises UsageError where it is not finished, a newer flowertune made it, or its config is
    damaged.
    """
    run = Run(path)
    state, _ = run.status()
    if state != "finished":
        hint = "" if path.is_dir() else "; there is no such directory"
        detail = hint if state == "unknown" else f": {state}"
        raise UsageError(f"{path}: is no finished run{detail}")
    run.check_version()
    with run.reading("config.yaml") as file:
        return FinishedRun(run, saved.read_flat(file))
