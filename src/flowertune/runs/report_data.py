"""Read from a finished run's directory all that its report shows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from flowertune import files
from flowertune.errors import UsageError
from flowertune.runs import finished as finished_run
from flowertune.runs.directory import REPORT_DATA, damaged_message
from flowertune.runs.finished import FinishedRun, Prediction

_LINE_KEYS = {  # split -> what each of its lines in metrics.jsonl has; the loss's terms come on top
    "train": {"step", "epoch", "loss", "lr", "head_lr", "gradient_norm"},
    "val": {"epoch", "loss", "top1", "top5", "mean_per_class"},
}


@dataclass(frozen=True)
class Embeddings:
    """Unit-length float32 embeddings `after` (M, E) and `before` (M, E) the training.

    `before` is None if unchanged or unknown. rows: (M,) into the reported split's predictions.
    """

    rows: NDArray[np.int64]
    after: NDArray[np.float32]
    before: NDArray[np.float32] | None


@dataclass(frozen=True)
class ReportData:
    """Images and embeddings that `write_report_data` saved for the report."""

    images: dict[str, Any]
    embeddings: Embeddings


@dataclass(frozen=True)
class ReportedRun:
    """Contents of a run that a report shows.

    predictions: of the reported split. steps, validations: the lines of metrics.jsonl.
    report_data: in its place, where the run has none that is whole, why.
    """

    finished: FinishedRun
    environment: dict[str, Any]
    config_text: str
    predictions: tuple[Prediction, ...]
    steps: tuple[dict[str, Any], ...]
    validations: tuple[dict[str, Any], ...]
    report_data: ReportData | str

    @property
    def path(self) -> Path:
        return self.finished.run.path

    @property
    def reported_split(self) -> str:
        return self.finished.reported_split

    @property
    def results(self) -> dict[str, Any]:
        return self.finished.results


def read_report(path: Path) -> ReportedRun:
    """Read the run at `path`.

    Raises:
        UsageError: it is no finished run, or a file of it is missing or damaged.
    """
    finished = finished_run.read_finished_run(path)
    lines = _lines(path, trained=finished.results["epochs_run"] > 0)
    return ReportedRun(
        finished=finished,
        environment=finished.run.environment(),
        config_text=(path / "config.yaml").read_text(encoding="utf-8"),
        predictions=finished.predictions(finished.reported_split),
        steps=tuple(line for line in lines if line["split"] == "train"),
        validations=tuple(line for line in lines if line["split"] == "val"),
        report_data=_read_report_data(path),
    )


def _lines(path: Path, *, trained: bool) -> list[dict[str, Any]]:
    try:
        text = (path / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        if bool(lines) == trained and all(map(_is_whole, lines)):
            return lines
    except (OSError, ValueError) as error:
        raise UsageError(damaged_message(path, "metrics.jsonl")) from error
    raise UsageError(damaged_message(path, "metrics.jsonl"))


def _is_whole(line: Any) -> bool:
    return (
        isinstance(line, dict)
        and line.keys() >= _LINE_KEYS.get(str(line.get("split")), {"split"})
        and line.get("split") in _LINE_KEYS
        and all(isinstance(value, int | float) for key, value in line.items() if key != "split")
    )


def _read_report_data(path: Path) -> ReportData | str:
    folder = path / REPORT_DATA
    if not folder.exists():
        return f"{folder}: the run has kept no photos for its report"
    try:
        problem = files.find_corruption(folder)  # what is as it was written needs no other check
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem is not None:
        return f"{folder}: {problem}; the report is without photos and embeddings"
    tensors = load_file(folder / "embeddings.safetensors")
    frozen = tensors.get("before")
    return ReportData(
        json.loads((folder / "photos.json").read_text(encoding="utf-8")),
        Embeddings(
            tensors["rows"],
            tensors["after"].astype(np.float32),
            None if frozen is None else frozen.astype(np.float32),
        ),
    )
