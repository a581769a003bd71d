"""`flowertune train -m`: whole trainings, one after another in one process."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Runs flowertune, but with seed 2 there is no memory for the training while the file is there.
SCARCE = """
import sys
from pathlib import Path
from flowertune import cli
from flowertune.training import setup

build_classifier = setup.build_classifier

def scarce(config, *others):
    if config.seed == 2 and Path("no-memory").exists():
        raise MemoryError
    return build_classifier(config, *others)

setup.build_classifier = scarce
sys.exit(cli.main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "no-memory").touch()
    return tmp_path


def test_a_sweep_goes_on_past_a_failure_and_each_job_has_the_bits_of_that_job_alone(
    small: tuple[str, ...],
    trained: Path,
    environment: dict[str, str],
    same_training: Callable[[Path, Path], None],
    folder: Path,
) -> None:
    command = [sys.executable, "-c", SCARCE, "train", "-m", "method=mixup", *small, "seed=1,2,42"]

    def sweep() -> tuple["subprocess.CompletedProcess[str]", list[dict[str, str]]]:
        env = {**environment, "FLOWERTUNE_CACHE": str(folder / "cache")}
        process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        (table,) = (folder / "runs" / "sweeps").glob("*/sweep.csv")
        with table.open(newline="") as file:
            return process, list(csv.DictReader(file))

    process, (first, second, third) = sweep()
    assert process.returncode == 1, process.stderr
    assert [row["state"] for row in (first, second, third)] == ["finished", "failed", "finished"]
    status = json.loads((folder / second["run"] / "status.json").read_text())
    assert status == {"state": "failed", "why": second["why"]}
    assert second["why"].startswith("out of memory on cpu")
    assert second["why"] in process.stderr
    assert second["why"] in process.stdout
    assert "Traceback" not in process.stderr
    for work in ("train: decoding images", "features of the frozen backbone: train"):
        assert process.stdout.count(work) == 1, work  # by the first job, for all
    same_training(folder / third["run"], trained)
    metrics = [(folder / row["run"] / "metrics.jsonl").read_bytes() for row in (first, third)]
    assert metrics[0] != metrics[1]

    (folder / "no-memory").unlink()
    files = [path for row in (first, third) for path in (folder / row["run"]).rglob("*.*")]
    before = [path.stat().st_mtime_ns for path in files]
    process, rows = sweep()
    assert process.returncode == 0, process.stderr
    assert [row["state"] for row in rows] == ["finished"] * 3
    assert "failed before (out of memory on cpu" in process.stdout
    assert process.stdout.count("already finished") == 2
    assert [path.stat().st_mtime_ns for path in files] == before
