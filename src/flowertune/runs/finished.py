"""Open a finished run and read its files."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

_LINE_KEYS = {  # split -> keys of its lines in metrics.jsonl; train also has the terms of the loss
    "train": {"step", "epoch", "loss", "lr", "head_lr", "gradient_norm"},
    "val": {"epoch", "loss", "top1", "top5", "mean_per_class"},
}
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Prediction:
    """Image with its label and its most likely classes and their probabilities, best first.

    `path` is as in the file; control characters in class names are escaped for display.
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
    """Images and embeddings saved with a run for its report.

    images: content of photos.json. rows: (M,) indices into the predictions of the reported split.
    after, before: unit-length float32 embeddings (M, E) of the trained and the frozen backbone;
    `before` is None if they are the same or unknown.
    """

    images: dict[str, Any]
    rows: NDArray[np.int64]
    after: NDArray[np.float32]
    before: NDArray[np.float32] | None


@dataclass(frozen=True)
class FinishedRun:
    """Finished run; `values` is its config by dotted key. Damaged files raise UsageError."""

    run: Run
    values: dict[str, Any]
    backbone_path: str | Path | None = None  # where its pretrained weights are, if they have moved

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def name(self) -> str:
        """Name of the directory, even if it was given as "."."""
        return self.path.absolute().name

    @property
    def adapter(self) -> Path:
        """Folder of adapter, head, labels and preprocessing."""
        return self.run.adapter

    @cached_property
    def config(self) -> Config:
        """Checked config."""
        with self.run.reading("config.yaml") as path:
            config = saved.read_config(path)
        if self.backbone_path is not None:
            folder = str(files.expand_user(self.backbone_path).absolute())
            moved = replace(config.backbone, source="directory", path=folder)
            config = replace(config, backbone=moved)
        return config

    @property
    def config_text(self) -> str:
        with self.run.reading("config.yaml") as path:
            return path.read_text(encoding="utf-8")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self.run.environment()

    @cached_property
    def results(self) -> dict[str, Any]:
        return self.run.results()

    @property
    def depends_on_seed(self) -> bool:
        """Whether another seed would give another result."""
        return seed_matters(self.values["model.name"], self.values["probe.solver"])

    @property
    def reported_split(self) -> str:
        """Split whose images the report shows: test, else val."""
        return reported_split(self.results["splits"])

    @cached_property
    def images(self) -> dict[str, list[RunImage]]:
        """Images of each split, in the order of photos.csv; "train" is never empty."""
        images: dict[str, list[RunImage]] = {}
        for image in self._table("photos.csv", lambda row: RunImage(*row)):
            images.setdefault(image.split, []).append(image)
        if "train" not in images:
            raise UsageError(damaged_message(self.path, "photos.csv"))
        return images

    def predictions(self, split: str) -> tuple[Prediction, ...]:
        """Read the predictions of a measured split, in the order of its images."""
        name, n_images = f"predictions-{split}.csv", self.results["splits"][split]["n"]
        predictions = tuple(self._table(name, _prediction))
        if not len(predictions) == len({each.path for each in predictions}) == n_images:
            raise UsageError(damaged_message(self.path, name))
        return predictions

    @cached_property
    def steps(self) -> list[Metrics]:
        """Lines of metrics.jsonl for training steps; empty for a run without epochs."""
        return [line for line in self._lines if line["split"] == "train"]

    @cached_property
    def validations(self) -> list[Metrics]:
        """Lines of metrics.jsonl for validations."""
        return [line for line in self._lines if line["split"] == "val"]

    @cached_property
    def _lines(self) -> list[Metrics]:
        is_trained = self.results["epochs_run"] > 0
        with self.run.reading("metrics.jsonl") as path:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if bool(lines) != is_trained or not all(map(_is_whole, lines)):
                raise ValueError("incomplete or unexpected lines")
        return lines

    def _table(self, name: str, parse: Callable[[list[str]], _Row]) -> list[_Row]:
        with self.run.reading(name) as path, path.open(encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(file)
            return [parse(row) for row in rows]

    @cached_property
    def report_data(self) -> ReportData | str:
        """Images and embeddings for the report, or the reason why there are none."""
        folder = self.path / REPORT_DATA
        if not folder.exists():
            return f"{folder}: the run saved no images for its report"
        try:
            problem = files.find_corruption(folder)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem is not None:
            return f"{folder}: {problem}; the report omits images and embeddings"
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
    keys = _LINE_KEYS[line["split"]]  # raises if it is not a line of metrics
    numbers = (value for key, value in line.items() if key != "split")
    return line.keys() >= keys and all(isinstance(value, int | float) for value in numbers)


def seed_matters(model: str, solver: str) -> bool:
    """Whether the seed affects the result: not for zero-shot or a deterministic probe."""
    config = model_config(model)
    return config.trains_backbone or (config.is_probe and solver not in SEEDLESS_SOLVERS)


def read_finished_run(path: Path, backbone_path: str | Path | None = None) -> FinishedRun:
    """Open a finished run. Raises UsageError if unfinished, damaged or of a newer flowertune."""
    run = Run(path)
    _refuse_near_miss(path)
    state, _ = run.status()
    if state != "finished":
        if not path.is_dir():
            raise UsageError(
                f"{path}: {'is not a run directory' if path.exists() else 'does not exist'}"
            )
        detail = "" if state == "unknown" else f" ({state})"
        raise UsageError(f"{path}: is not a finished run{detail}")
    run.check_version()
    with run.reading("config.yaml") as file:
        return FinishedRun(run, saved.read_flat(file), backbone_path)


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory, finished or not."""
    return Run(path).status()[0] != "unknown"


def _refuse_near_miss(path: Path) -> None:
    """Raise UsageError if `path` is not a run, but shows which one was meant."""
    if is_run(path):
        return
    problem = f"{path}: {'is not a finished run' if path.exists() else 'does not exist'}"
    if meant := next(filter(is_run, (Path("runs") / path, *path.parents)), None):
        raise UsageError(f"{problem}; did you mean {meant}?")
    states = [Run(each.parent).status()[0] for each in path.glob("*/status.json")]
    if n_runs := states.count("finished"):
        hint = f"finished runs in it: {n_runs}; give one, or run: flowertune report {path}/*"
        raise UsageError(f"{problem}; {hint}")
    if not path.exists() and not set("*?[").isdisjoint(str(path)):
        raise UsageError(f"{problem}; the shell expands patterns only without quotes")
