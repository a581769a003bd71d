"""Launchers and sweepers of flowertune[sweep], with stand-ins for trainings."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowertune.commands import compose
from flowertune.config.schema import Config
from flowertune.errors import Interrupted, TrainingError, UsageError
from flowertune.signals import install_handlers

Finish = Callable[..., int]
Table = Callable[..., list[dict[str, str]]]
Column = Callable[[str], list[str]]


def test_jobs_in_other_processes_report_through_their_files(
    finish: Finish,
    capfd: pytest.CaptureFixture[str],
    column: Column,
    sweep_folder: Callable[[], Path],
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs flowertune[sweep]")

    def execute(config: Config) -> int:
        print("chatter")
        if config.seed == 2:
            raise TrainingError("the loss is not finite")
        if config.seed == 3:
            raise ValueError("a fault")
        return finish(config)

    words = ["-m", f"run.root={Path('my runs').absolute()}", "seed=1,2,3,4"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert compose.run([*words, *launcher], execute) == 1
    assert column("state") == ["finished", "failed", "failed", "finished"]
    assert column("why")[1:3] == ["the loss is not finite", "ValueError: a fault"]
    screen = capfd.readouterr().out
    assert "job 4 of 4: seed=4\n" in screen
    assert "job 4 of 4: finished, val top-1 50.00%\n" in screen
    assert "2 of 4 runs finished" in screen
    assert "chatter" not in screen
    logs = {path.name: path.read_text() for path in (sweep_folder() / "jobs").glob("*.log")}
    assert logs["1.log"] == "chatter\n"
    assert "Traceback" in logs["3.log"]


def test_a_worker_that_dies_fails_its_job_without_a_wait(
    finish: Finish, capfd: pytest.CaptureFixture[str], column: Column
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs flowertune[sweep]")

    def execute(config: Config) -> int:
        if config.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(config)

    root = Path("my runs").absolute()  # the workers of an earlier test live on, in its folder
    words = ["-m", f"run.root={root}", "seed=1,2", "hydra/launcher=joblib"]
    assert compose.run([*words, "hydra.launcher.n_jobs=2"], execute) == 1
    assert column("state")[1] == "failed"
    assert column("why")[1] == "its process ended"
    assert "the sweep ended early" in capfd.readouterr().err


def test_on_a_signal_running_workers_save_and_no_job_starts(
    finish: Finish, column: Column, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs flowertune[sweep]")
    root = Path("my runs").absolute()

    def execute(config: Config) -> int:
        with install_handlers() as stop, stop.deferred():
            (root / f"begun {config.seed}").touch()
            while stop.received is None:
                time.sleep(0.01)
            time.sleep(0.5)  # saving takes time; the end of the other worker must not kill this one
            (root / f"saved {config.seed}").touch()
            stop.check()
        return finish(config)

    def end_both() -> None:
        while len(list(root.glob("begun *"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    root.mkdir()
    threading.Thread(target=end_both, daemon=True).start()
    words = ["-m", f"run.root={root}", "seed=1,2,3,4", "hydra/launcher=joblib"]
    with pytest.raises(Interrupted, match="SIGTERM"):
        compose.run([*words, "hydra.launcher.n_jobs=2"], execute)
    assert sorted(path.name for path in root.glob("saved *")) == ["saved 1", "saved 2"]
    assert column("state") == ["interrupted", "interrupted", "not started", "not started"]
    assert column("why")[:2] == ["interrupted by SIGTERM"] * 2  # not by SIGUSR1, as passed on
    assert "0 of 4 runs finished" in capfd.readouterr().out


def search(*words: str) -> list[str]:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs flowertune[sweep]")
    return ["experiment=search/rates", "run.root=my runs", "hydra.sweeper.n_trials=4", *words]


def test_a_search_maximizes_val_and_survives_failed_jobs(
    finish: Finish, column: Column, table: Table, sweep_folder: Callable[[], Path]
) -> None:
    import yaml

    rates: list[float] = []

    def execute(config: Config) -> int:
        rates.append(config.optimizer.lr)
        if len(rates) == 2:
            raise TrainingError("the loss is not finite")
        return finish(config, val=1 - config.optimizer.lr, test=config.optimizer.lr)

    assert compose.run(search(), execute) == 1
    assert column("state").count("finished") == 3
    assert [float(lr) for lr in column("optimizer.lr")] == rates
    found: Any = yaml.safe_load((sweep_folder() / "optimization_results.yaml").read_text())
    best = min(rate for number, rate in enumerate(rates) if number != 1)
    assert found["best_params"]["optimizer.lr"] == best
    assert float(table("summary.csv")[0]["optimizer.lr"]) == best


def test_a_search_without_results_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], column: Column
) -> None:
    def execute(config: Config) -> int:
        raise TrainingError("never")

    assert compose.run(search(), execute) == 1
    assert column("state") == ["failed"] * 4
    assert "the sweep ended early: No trials are completed yet." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hydra.sweeper.direction=minimize", r"hydra\.sweeper\.direction: must be maximize"),
        ("data.protocol=trainval", r"data\.protocol=trainval: has no val split"),
        ("trainer.epochs=0", r"trainer\.epochs=0: must be at least 1"),
    ],
)
def test_invalid_search_settings_are_refused(word: str, message: str) -> None:
    started: list[Config] = []
    with pytest.raises(UsageError, match=message):
        compose.run(
            search("probe.weight_decay=0.1", word), lambda config: started.append(config) or 0
        )
    assert started == []
    assert list(Path().iterdir()) == []
