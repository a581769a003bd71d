"""Read and write a run directory: its layout and atomic writes.

It is the only thing that passes from training to everything else (see README, "What a run leaves").
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flowertune import files
from flowertune.config import saved
from flowertune.errors import UsageError

Metrics = dict[str, Any]  # one line of metrics.jsonl or timings.jsonl
FORMAT = 1  # of a run directory; to be raised when an older flowertune could misread one
REPORT_DATA = "report"  # in a run: what its page shows of the photos
CHECKPOINTS_KEPT = 2  # should the newer be damaged, there is one before it
LOCKS = ".locks"  # beside the runs, and no run's name: what runs and sweeps are held and made in
_HALF_WRITTEN = re.compile(r"\..+\.[a-z0-9_]{8}")  # as files.py names what it is writing


class RunImage(NamedTuple):
    """Row of photos.csv. `path` is relative to the image root, `label` is the class name."""

    split: str
    path: str
    label: str
    sha256: str


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a header and rows as CSV text."""
    lines = []
    for row in (header, *rows):
        line = io.StringIO()
        # with "\n" alone, older Pythons do not quote a name that holds "\r", and cannot read it
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


@dataclass(frozen=True)
class Run:
    """Run directory: paths of its contents, and methods that read and write them."""

    path: Path

    @property
    def best(self) -> Path:
        """Weights of the best epoch on val, or of the last epoch without val."""
        return self.path / "checkpoints" / "best" / "model.safetensors"

    def checkpoint(self, epochs: int, step: int) -> Path:
        """Folder of the checkpoint after `epochs` whole epochs and `step` steps."""
        return self._last / f"epoch-{epochs:05}-step-{step:09}"

    def checkpoints(self) -> list[Path]:
        """Existing checkpoints, newest first."""
        paths = self._last.glob("epoch-*-step-*")
        return sorted((path for path in paths if path.is_dir()), reverse=True)

    @property
    def _last(self) -> Path:
        return self.path / "checkpoints" / "last"

    @property
    def failed_batch_dir(self) -> Path:
        """Folder of the batch that gave a non-finite loss or gradient."""
        return self.path / "failed_batch"

    @property
    def adapter(self) -> Path:
        """Folder needed for inference: adapter, head, labels, preprocessing."""
        return self.path / "adapter"

    @property
    def log(self) -> Path:
        """Log file of warnings and the traceback of a failure."""
        return self.path / "run.log"

    def create(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Create the directory atomically. Raises UsageError where it cannot be made."""
        temporary = Run(self.path.parent / LOCKS / f"{self.path.name}.new")
        try:
            if temporary.path.exists():  # of a process that was killed just below
                shutil.rmtree(temporary.path)
            temporary.path.parent.mkdir(parents=True, exist_ok=True)
            with files.new_folder(self.path, temporary.path):
                temporary.best.parent.mkdir(parents=True)
                temporary.adapter.mkdir()
                files.write_text(temporary.path / "config.yaml", saved.to_yaml(config))
                files.write_json(temporary.path / "environment.json", environment)
                temporary.write_status("running")
        except OSError as error:
            raise UsageError(not_writable_message(self.path, error)) from error

    def newest_checkpoint(self) -> tuple[Path | None, dict[Path, str]]:
        """Find the newest intact checkpoint, and why each newer one is corrupt."""
        problems: dict[Path, str] = {}
        for path in self.checkpoints():
            problem = files.find_corruption(path)
            if problem is None:
                return path, problems
            problems[path] = problem
        return None, problems

    def mark_resumed(self, changes: Mapping[str, Any], damaged_checkpoints: Iterable[Path]) -> None:
        """Set the directory of an unfinished run back to running.

        `changes`: what is another than it was; environment.json gets it under "resumed". The
        damaged checkpoints go.
        """
        previous = self.environment()
        with self.reading("environment.json"):
            resumed = [*previous.get("resumed", ()), changes]
        files.write_json(self.path / "environment.json", {**previous, "resumed": resumed})
        for path in damaged_checkpoints:
            shutil.rmtree(path)
        for folder in (self.best.parent, self.adapter):
            folder.mkdir(parents=True, exist_ok=True)
        for partial in list(self.path.rglob(".*")):  # half a file of a process that was killed
            if _HALF_WRITTEN.fullmatch(partial.name) and not partial.is_symlink():
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        shutil.rmtree(self.failed_batch_dir, ignore_errors=True)
        self.write_status("running")

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Yield the path of a file of the run, for the body to read and check.

        Raises UsageError where the file is missing or damaged.
        """
        try:
            yield self.path / name
        except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
            raise UsageError(damaged_message(self.path, name)) from error

    def status(self) -> tuple[str, str | None]:
        """Read (state, why) from status.json; ("unknown", None) without a valid file."""
        with suppress(UsageError):
            status = self._read_json("status.json")
            state, why = status.get("state"), status.get("why")
            if isinstance(state, str) and isinstance(why, str | None):
                return state, why
        return "unknown", None

    def write_status(self, state: str, why: str | None = None, **extra: str) -> None:
        """Write status.json. `state`: running, finished, failed or interrupted."""
        files.write_json(self.path / "status.json", {"state": state, "why": why, **extra})

    def write_lines(self, name: str, lines: Iterable[Metrics]) -> None:
        """Write a whole .jsonl file, so that readers never see half a line."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        files.write_text(self.path / name, text)

    def write_table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a .csv file."""
        files.write_text(self.path / name, to_csv(header, rows))

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json and mark the run finished; it can no longer be resumed."""
        path = self.path / "results.json"
        files.write_json(path, results)
        self.write_status("finished", results_sha256=files.sha256_of(path))
        self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Delete the checkpoints, which a finished run does not need."""
        shutil.rmtree(self._last, ignore_errors=True)

    def environment(self) -> dict[str, Any]:
        """Read environment.json. Raises UsageError if it is missing or damaged."""
        return self._read_json("environment.json")

    def check_version(self, otherwise: str = "") -> None:
        """Raise UsageError if a newer flowertune wrote the run.

        `otherwise`: what else a person may do than use that one, as the sentence goes on.
        """
        environment = self.environment()
        with self.reading("environment.json"):
            is_newer = environment.get("format", 0) > FORMAT  # the first ones had none
        if is_newer:
            raise UsageError(
                f"{self.path}: was made by flowertune {environment.get('flowertune')}, which is "
                f"newer than this one; use that{otherwise}"
            )

    def results(self) -> dict[str, Any]:
        """Read results.json of a finished run. Raises UsageError if it is missing or damaged."""
        values, status = self._read_json("results.json"), self._read_json("status.json")
        with self.reading("results.json") as path:
            if status.get("results_sha256") not in (None, files.sha256_of(path)):  # earlier: none
                raise ValueError("other results than the run wrote")
        return values

    def _read_json(self, name: str) -> dict[str, Any]:
        with self.reading(name) as path:
            # int refuses what JSON does not have: infinities, and what is no number
            values = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)
            if not isinstance(values, dict):
                raise ValueError("not an object")
        return values


def damaged_message(path: Path, name: str) -> str:
    """Error message for a run with a missing or damaged file."""
    return (
        f"{path}: {name} is missing or damaged; remove the run and train it again"
        " (run.resume=restart does both)"
    )


def not_writable_message(path: Path, error: OSError) -> str:
    """Error message for a directory that cannot be created."""
    return f"{path}: the directory cannot be made ({error.strerror})"
