"""Store the id that a tracker gave a run."""

import json
from collections.abc import Callable

from flowertune import files
from flowertune.runs.directory import Run


def run_id(run: Run, tracker: str, create: Callable[[], str]) -> str:
    """Read the tracker's id of the run, or create and store a new one."""
    path = run.path / "trackers.json"
    run_ids = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if tracker not in run_ids:
        run_ids[tracker] = create()
        files.write_json(path, run_ids)
    return str(run_ids[tracker])
