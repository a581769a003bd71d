"""Format predictions, one per line: as a table, CSV or JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len

from flowertune.errors import printable
from flowertune.runs.directory import to_csv

FORMATS = ("table", "json", "csv")
_PERCENT = 7  # characters of 100.00%
_RANK_NAMES = ("prediction", "second", "third")


class PredictionLines:
    """Formatter of predictions in one of FORMATS, `k` classes each.

    table: columns as wide as the longest of `class_names`, the path last. csv: "path", then
    `columns`. json: one object per line.
    """

    def __init__(
        self, form: str, class_names: Sequence[str], k: int, columns: Sequence[str]
    ) -> None:
        self.form = form
        self._columns = columns
        self._rank_names = [*_RANK_NAMES, *(f"{rank}th" for rank in range(4, k + 1))][:k]
        self._width = max(map(cell_len, map(printable, (*class_names, *self._rank_names))))

    def header(self) -> str | None:
        """Header line; None for JSON."""
        if self.form == "csv":
            return to_csv(["path", *self._columns], ()).removesuffix("\n")
        if self.form == "table":
            return self._row([(name, "") for name in self._rank_names], "image")
        return None

    def line(self, path: Path, classes: Sequence[str], probabilities: Sequence[float]) -> str:
        """Format one image and its classes, most probable first."""
        pairs = list(zip(classes, probabilities, strict=True))
        if self.form == "json":
            # ASCII only, so it is valid JSON on any terminal
            ranked = [{"class": name, "probability": round(value, 6)} for name, value in pairs]
            return json.dumps({"path": str(path), "predictions": ranked})
        if self.form == "csv":
            cells = [cell for name, value in pairs for cell in (name, f"{value:.6f}")]
            return to_csv([str(path), *cells], ()).removesuffix("\n")
        return self._row([(name, f"{100 * value:.2f}%") for name, value in pairs], str(path))

    def _row(self, pairs: Sequence[tuple[str, str]], path: str) -> str:
        cells = []
        for name, percent in pairs:
            padding = " " * (self._width - cell_len(printable(name)))
            cells.append(f"{printable(name)}{padding}{percent:>{_PERCENT + 1}}")
        return "  ".join([*cells, printable(path)])
