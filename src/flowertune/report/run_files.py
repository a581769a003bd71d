"""A finished run as a report reads it: its directory, and nothing else."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from flowertune import compared, files
from flowertune.compared import FinishedRun
from flowertune.data.photos import shown
from flowertune.errors import Refused
from flowertune.runs import KEEPSAKES, damaged


@dataclass(frozen=True)
class Prediction:
    """A photo, what it is, and its likeliest classes with their probabilities, the first first.

    Names are as they are shown: without control characters.
    """

    path: str
    label: str
    ranked: tuple[tuple[str, float], ...]

    @property
    def answer(self) -> str:
        return self.ranked[0][0]

    @property
    def probability(self) -> float:
        return self.ranked[0][1]

    @property
    def is_hit(self) -> bool:
        return self.label == self.answer


@dataclass(frozen=True)
class Embeddings:
    """Of length 1, float32: `after` (M, E) the training and `before` (M, E) it, which is None where
    nothing changed them or nothing is known of it. rows: (M,) into the judged split's predictions.
    """

    rows: NDArray[np.int64]
    after: NDArray[np.float32]
    before: NDArray[np.float32] | None


@dataclass(frozen=True)
class ReportedRun:
    """What a report is made of.

    judged: the split that the report looks at photo by photo. predictions: of that split.
    steps, validations, timings: the lines of metrics.jsonl and timings.jsonl. photos: as
    `keepsakes.leave` wrote them; None, as embeddings, where the run has none.
    """

    finished: FinishedRun
    environment: dict[str, Any]
    config_text: str
    judged: str
    predictions: tuple[Prediction, ...]
    steps: tuple[dict[str, Any], ...]
    validations: tuple[dict[str, Any], ...]
    photos: dict[str, Any] | None
    embeddings: Embeddings | None

    @property
    def path(self) -> Path:
        return self.finished.run.path

    @property
    def results(self) -> dict[str, Any]:
        return self.finished.results


def read(path: Path) -> ReportedRun:
    """Reads the run at `path`.

    Raises:
        Refused: it is no finished run, or a file of it is missing or damaged.
    """
    finished = compared.read(path)
    judged = "test" if "test" in finished.results["splits"] else "val"
    lines = _lines(path, "metrics.jsonl")
    photos, embeddings = _keepsakes(path)
    return ReportedRun(
        finished=finished,
        environment=finished.run.environment(),
        config_text=(path / "config.yaml").read_text(encoding="utf-8"),
        judged=judged,
        predictions=_predictions(path, judged, finished.results["splits"][judged]["n"]),
        steps=tuple(line for line in lines if line["split"] == "train"),
        validations=tuple(line for line in lines if line["split"] == "val"),
        photos=photos,
        embeddings=embeddings,
    )


def _lines(path: Path, name: str) -> list[dict[str, Any]]:
    try:
        text = (path / name).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise Refused(damaged(path, name)) from error


def _predictions(path: Path, split: str, photos: int) -> tuple[Prediction, ...]:
    name = f"predictions-{split}.csv"
    try:
        with (path / name).open(encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(file)
        found = tuple(_prediction(row) for row in rows)
    except (OSError, ValueError, csv.Error) as error:
        raise Refused(damaged(path, name)) from error
    if len(found) != photos:
        raise Refused(damaged(path, name))
    return found


def _prediction(row: Sequence[str]) -> Prediction:
    photo, label, answer, probability, *others = row
    ranked = (answer, probability, *others)
    pairs = zip(ranked[::2], ranked[1::2], strict=True)
    answers = tuple((shown(name), float(probability)) for name, probability in pairs)
    return Prediction(shown(photo), shown(label), answers)


def _keepsakes(path: Path) -> tuple[dict[str, Any] | None, Embeddings | None]:
    folder = path / KEEPSAKES
    if not folder.exists():
        return None, None
    try:
        flaw = files.flaw(folder)
        if flaw is not None:
            raise Refused(f"{folder}: {flaw}; without the folder the report has no photos")
        photos = json.loads((folder / "photos.json").read_text(encoding="utf-8"))
        kept = load_file(folder / "embeddings.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise Refused(f"{folder}: cannot be read; without it the report has no photos") from error
    before = kept.get("before")
    return photos, Embeddings(
        kept["rows"],
        kept["after"].astype(np.float32),
        None if before is None else before.astype(np.float32),
    )
