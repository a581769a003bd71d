"""Read the images and embeddings that a run keeps for its report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from flowertune import files


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


def read_report_data(folder: Path) -> ReportData | str:
    """Read what `write_report_data` saved; where it is not whole, say why."""
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
        images=json.loads((folder / "photos.json").read_text(encoding="utf-8")),
        rows=tensors["rows"],
        after=tensors["after"].astype(np.float32),
        before=None if frozen is None else frozen.astype(np.float32),
    )
