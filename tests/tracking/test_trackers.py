"""What TensorBoard, wandb (offline) and MLflow (a local file) have stored of a tracker's calls.

A run lives twice: the first life ends in the middle, the second gives its tracker all lines again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tracker_stores import Read, check, read_mlflow, read_tensorboard, read_wandb

from flowertune.config import saved
from flowertune.config.logger import LoggerConfig, MlflowConfig, TensorBoardConfig, WandbConfig
from flowertune.runs.directory import LOCKS, Run
from flowertune.tracking.tracker import TRACKERS

pytestmark = pytest.mark.trackers

CONFIG = {"method": "mixup", "seed": 42, "trainer": {"epochs": 2, "ema": None}}
LINES = [
    {"step": 1, "epoch": 1, "split": "train", "loss": 1.5, "lr": 1e-3, "gradient_norm": None},
    {"step": 2, "epoch": 1, "split": "train", "loss": 1.25, "lr": 2e-3, "gradient_norm": 2.0},
    {"step": 2, "epoch": 1, "split": "val", "loss": 1.125, "top1": 0.5},
    {"step": 3, "epoch": 2, "split": "train", "loss": 1.0, "lr": 1e-3, "gradient_norm": 3.0},
    {"step": 4, "epoch": 2, "split": "train", "loss": 0.5, "lr": 0.0, "gradient_norm": 1.0},
    {"step": 4, "epoch": 2, "split": "val", "loss": 0.75, "top1": 0.625},
]
MEASURED = {"n": 8, "loss": 0.75, "top1": 0.625, "top1_interval": [0.25, 0.875],
            "mean_per_class": 0.5, "per_class": [0.5]}  # fmt: skip
PROBE = {**MEASURED, "top1": 0.375}
RESULTS = {
    "method": "mixup", "model": "lora", "backbone": "tiny", "tag": "builtin",
    "protocol": "8 photos",
    "trainable_parameters": 1234, "epochs_run": 2, "best_epoch": None, "seconds": 1.5,
    "splits": {"val": MEASURED},
    "baselines": {
        "zeroshot": None, "linear_probe": {"trainable_parameters": 12, "splits": {"val": PROBE}},
    },
}  # fmt: skip
FINAL = {
    "final/val/top1": 0.625, "final/val/mean_per_class": 0.5, "final/linear_probe/val/top1": 0.375,
    "final/trainable_parameters": 1234, "final/seconds": 1.5,
}  # fmt: skip


CASES = [
    pytest.param(TensorBoardConfig(), read_tensorboard, (None, None), id="tensorboard"),
    pytest.param(WandbConfig(mode="offline", group="a sweep"), read_wandb,
                 ("finished", "not finished"), id="wandb"),
    pytest.param(MlflowConfig(group="a sweep"), read_mlflow, ("FINISHED", "KILLED"), id="mlflow"),
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = Run(tmp_path / "first")
    run.path.mkdir()
    (tmp_path / LOCKS).mkdir()
    return run


def live(settings: LoggerConfig, run: Run, pieces: Sequence[int], end: str | None) -> None:
    """A life of the run: so many lines at each call; `end` None: it is killed."""
    pytest.importorskip(settings.name)
    tracker, at = TRACKERS[settings.name](settings, run, CONFIG), 0
    for piece in pieces:
        tracker.log_metrics(LINES[at : at + piece])
        at += piece
    if end == "finished":
        tracker.log_results(RESULTS)
    if end is not None:
        tracker.close(end)


@pytest.mark.parametrize(("settings", "read", "states"), CASES)
def test_all_that_was_tracked_is_there_once(
    settings: LoggerConfig, read: Read, states: tuple[str | None, str | None], run: Run
) -> None:
    live(settings, run, [2, 4], "finished")
    stored = read(run)
    check(stored, LINES)
    assert {name: stored.final[name] for name in FINAL} == FINAL
    assert "linear probe" in stored.table
    assert "0.375" in stored.table
    assert "0.875" in stored.table
    for _, value in saved.flatten(CONFIG):
        assert str(value) in stored.config.replace("null", "None")
    assert stored.state == states[0]


@pytest.mark.parametrize(("settings", "read", "states"), CASES)
def test_a_run_that_goes_on_is_one_run_with_every_line_once(
    settings: LoggerConfig, read: Read, states: tuple[str | None, str | None], run: Run
) -> None:
    live(settings, run, [2, 2], "interrupted")
    stored = read(run)
    check(stored, LINES[:4])
    assert stored.state == states[1]
    live(settings, run, [3, 3], "finished")
    stored = read(run)
    check(stored, LINES)
    assert stored.state == states[0]


def test_mlflow_keeps_apart_what_a_killed_run_had_of_train_and_val(run: Run) -> None:
    live(MlflowConfig(group="a sweep"), run, [2], None)  # step 2 is known of train alone
    live(MlflowConfig(group="a sweep"), run, [6], "finished")
    check(read_mlflow(run), LINES)


def test_wandb_online_skips_the_lines_that_the_server_has(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    logged: list[dict[str, Any]] = []
    asked: dict[str, Any] = {}

    class Resumed:
        url, starting_step, summary = "https://somewhere", 4, dict[str, float]()
        define_metric = finish = staticmethod(lambda *_, **__: None)
        log = staticmethod(logged.append)

    monkeypatch.setattr(wandb, "init", lambda **words: asked.update(words) or Resumed())
    live(WandbConfig(mode="online"), run, [3, 3], None)
    assert [(line["step"], "val/top1" in line) for line in logged] == [(4, False), (4, True)]
    first = asked["id"]
    live(WandbConfig(mode="online"), run, [], None)
    assert asked["id"] == first
    assert asked["resume"] == "allow"
