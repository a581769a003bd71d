"""Trainings with a tracker have the same bits as without, and all their lines are tracked."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracker_stores import Read, check, read_mlflow, read_tensorboard, read_wandb

from flowertune.runs.directory import Run

pytestmark = pytest.mark.trackers

WORDS = (
    "train", "method=mixup", "experiment=quickstart", "trainer.epochs=2", "data.train_per_class=3",
    "data.val_per_class=2", "data.test_per_class=1", "baselines=false",
)  # fmt: skip


@pytest.fixture(scope="session")
def flowertune(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folder = tmp_path_factory.mktemp("trained")
    known = {name: value for name, value in os.environ.items()
             if not name.startswith(("WANDB", "MLFLOW"))}  # fmt: skip
    there = {"FLOWERTUNE_CACHE": str(folder / "cache"), "HOME": str(folder),
        "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "WANDB_ERROR_REPORTING": "false"
    }  # fmt: skip

    def flowertune(*words: str) -> "tuple[Path, subprocess.CompletedProcess[str]]":
        process = subprocess.run(
            [sys.executable, "-m", "flowertune", *WORDS, *words], cwd=folder, text=True,
            env={**known, **there}, capture_output=True, check=False,
        )  # fmt: skip
        return folder / "runs", process

    return flowertune


@pytest.fixture(scope="session")
def plain(flowertune: Callable[..., Any]) -> Path:
    """A training without a tracker."""
    runs, process = flowertune("run.name=plain")
    assert process.returncode == 0, process.stderr
    return runs / "plain"


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["logger=tensorboard"], read_tensorboard),
        (["logger=wandb", "logger.mode=offline"], read_wandb),
        (["logger=mlflow", "logger.group='a sweep'"], read_mlflow),
        (["logger=mlflow", "logger.uri='http://127.0.0.1:9'"], None),  # no server
    ],
    ids=["tensorboard", "wandb", "mlflow", "dead"],
)
def test_a_training_has_the_same_bits_and_its_lines_are_tracked(
    words: list[str], read: Read | None, flowertune: Callable[..., Any], plain: Path
) -> None:
    pytest.importorskip(words[0].partition("=")[2])
    name = f"run.name={words[0].partition('=')[2]}{len(words[-1])}"
    runs, process = flowertune(*words, name)
    assert process.returncode == 0, process.stderr
    run = Run(runs / name.partition("=")[2])
    assert run.best.read_bytes() == (plain / run.best.relative_to(run.path)).read_bytes()
    metrics = (run.path / "metrics.jsonl").read_text()
    assert metrics == (plain / "metrics.jsonl").read_text()
    if read is None:
        assert process.stderr.count("logger=mlflow disabled, results are unaffected: ") == 1
        assert "logger=mlflow disabled" in run.log.read_text()
        return
    assert "disabled" not in process.stderr
    assert f"\nlogger={words[0].partition('=')[2]}: " in process.stdout
    stored = read(run)
    check(stored, [json.loads(line) for line in metrics.splitlines()])
    top1 = json.loads((run.path / "results.json").read_text())["splits"]["test"]["top1"]
    assert math.isclose(stored.final["final/test/top1"], top1, rel_tol=1e-6)


def test_wandb_without_a_login_is_refused_without_a_prompt(flowertune: Callable[..., Any]) -> None:
    pytest.importorskip("wandb")
    _, process = flowertune("logger=wandb", "run.name=nobody")
    assert process.returncode == 2
    assert process.stderr == (
        "flowertune train: logger=wandb: "
        "not logged in; run wandb login or set logger.mode=offline\n"
    )
