"""What TensorBoard, wandb (offline) and MLflow (a local file) have stored, read back by themselves.

A run lives twice: the first life ends in the middle, the second gives its tracker all lines again.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowertune.config import saved
from flowertune.config.logger import LoggerConfig, MlflowConfig, TensorBoardConfig, WandbConfig
from flowertune.runs.directory import LOCKS, Run
from flowertune.tracking import tracker as tracker_module

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


@dataclass
class Stored:
    """What a tracker has of a run: (step, value) of each metric, in the order of its keeping."""

    metrics: dict[str, list[tuple[int, float]]]
    config: str
    final: dict[str, float]
    table: str
    state: str | None


def read_tensorboard(run: Run) -> Stored:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (run.path / "tensorboard").iterdir()
    found = EventAccumulator(str(events), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    scalars = {
        name: [(each.step, each.value) for each in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }

    def text(name: str) -> str:
        (event,) = found.Tensors(f"{name}/text_summary")
        return bytes(event.tensor_proto.string_val[0]).decode()

    return Stored(
        metrics={name: each for name, each in scalars.items() if not name.startswith("final/")},
        config=text("config"),
        final={name: each[-1][1] for name, each in scalars.items() if name.startswith("final/")},
        table=text("results") if "results/text_summary" in found.Tags()["tensors"] else "",
        state=None,
    )


def read_wandb(run: Run) -> Stored:
    import wandb
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    wandb.teardown()  # its other process writes until it ends
    (written,) = run.path.glob("wandb/offline-run-*/*.wandb")
    store, stored = DataStore(), Stored({}, "", {}, "", None)
    store.open_for_scan(str(written))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            items = {each.key: json.loads(each.value_json) for each in record.run.config.update}
            stored.config = json.dumps(items)
        items = {
            "/".join(each.nested_key) or each.key: json.loads(each.value_json)
            for each in record.history.item
        }
        for name, value in items.items():
            if name.startswith(("train/", "val/")):
                stored.metrics.setdefault(name, []).append((items["step"], value))
        for each in record.summary.update:
            if each.key.startswith("final/"):
                stored.final[each.key] = json.loads(each.value_json)
        if record.HasField("exit"):
            stored.state = "finished" if record.exit.exit_code == 0 else "not finished"
    for table in written.parent.rglob("*.table.json"):
        stored.table = table.read_text()
    return stored


def read_mlflow(run: Run) -> Stored:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("flowertune")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags["sweep"] == "a sweep"
    history = {
        name: [(each.step, each.value)
               for each in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }  # fmt: skip
    return Stored(
        metrics={name: each for name, each in history.items() if not name.startswith("final/")},
        config=json.dumps(found.data.params),
        final={name: each[-1][1] for name, each in history.items() if name.startswith("final/")},
        table=found.data.tags.get("mlflow.note.content", ""),
        state=found.info.status,
    )


CASES = [
    pytest.param(TensorBoardConfig(), read_tensorboard, (None, None), id="tensorboard"),
    pytest.param(WandbConfig(mode="offline", group="a sweep"), read_wandb,
                 ("finished", "not finished"), id="wandb"),
    pytest.param(MlflowConfig(group="a sweep"), read_mlflow, ("FINISHED", "KILLED"), id="mlflow"),
]  # fmt: skip
Read = Callable[[Run], Stored]


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
    tracker, at = tracker_module.start(settings, run, CONFIG), 0
    for piece in pieces:
        tracker.log_metrics(LINES[at : at + piece])
        at += piece
    if end == "finished":
        tracker.log_results(RESULTS)
    if end is not None:
        tracker.close(end)


def expected(lines: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "split") and value is not None:
                found.setdefault(f"{line['split']}/{name}", []).append((line["step"], value))
    return found


def check(stored: Stored, lines: Sequence[dict[str, Any]]) -> None:
    wanted = expected(lines)
    assert stored.metrics.keys() == wanted.keys()
    for name, each in wanted.items():
        assert [step for step, _ in stored.metrics[name]] == [step for step, _ in each], name
        for (_, value), (_, known) in zip(stored.metrics[name], each, strict=True):
            assert math.isclose(value, known, rel_tol=1e-6), name  # TensorBoard has float32


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
        (["logger=mlflow", "logger.uri='http://127.0.0.1:9'"], None),  # nobody answers
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
        assert process.stderr.count("logger=mlflow is left aside: ") == 1
        assert "logger=mlflow is left aside" in run.log.read_text()
        return
    assert "left aside" not in process.stderr
    assert f"\nlogger={words[0].partition('=')[2]}: " in process.stdout
    stored = read(run)
    check(stored, [json.loads(line) for line in metrics.splitlines()])
    top1 = json.loads((run.path / "results.json").read_text())["splits"]["test"]["top1"]
    assert math.isclose(stored.final["final/test/top1"], top1, rel_tol=1e-6)


def test_wandb_without_a_login_is_refused_and_asks_nobody(flowertune: Callable[..., Any]) -> None:
    pytest.importorskip("wandb")
    _, process = flowertune("logger=wandb", "run.name=nobody")
    assert process.returncode == 2
    assert process.stderr == (
        "flowertune train: logger=wandb: nobody is logged in; wandb login, or logger.mode=offline\n"
    )
