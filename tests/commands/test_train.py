"""`flowertune train` in this process, where what it rests on can be made to fail."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowertune.commands import train
from flowertune.config.schema import Config
from flowertune.errors import Interrupted
from flowertune.runs.directory import Run
from flowertune.signals import install_handlers
from flowertune.training import setup

SMALL = (
    "method=zeroshot", "experiment=quickstart", "data.train_per_class=2", "data.val_per_class=1",
    "data.test_per_class=1", "run.name=r",
)  # fmt: skip


def test_a_report_that_the_disk_has_no_room_for_costs_no_result(
    compose: Callable[..., Config],
    fill_disk: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write_results(run: Run, results: dict[str, Any]) -> None:
        written(run, results)
        fill_disk()

    written = Run.write_results
    monkeypatch.setattr(Run, "write_results", write_results)
    monkeypatch.setattr(setup, "make_deterministic", lambda enabled, device: None)
    monkeypatch.setattr(setup.memory, "keep_freed", lambda: True)
    monkeypatch.setenv("FLOWERTUNE_CACHE", str(tmp_path / "cache"))
    assert train.execute(compose(*SMALL, f"run.root={tmp_path}")) == 0
    run = Run(tmp_path / "r")
    assert run.status() == ("finished", None)
    assert run.results()["method"] == "zeroshot"
    *_, place, line = capsys.readouterr().out.splitlines()
    assert place == str(run.path)
    assert "its report could not be made (DiskFullError: " in line
    assert [path for path in run.path.rglob("*") if path.name.startswith((".", "report"))] == []


def test_a_signal_while_images_are_prepared_stops_a_job_whose_sweep_defers_signals(
    compose: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # as in a joblib sweep with one process, which runs its jobs in the sweep's own
    monkeypatch.setattr(train, "prepare", lambda *_: signal.raise_signal(signal.SIGINT))
    config = compose(*SMALL, f"run.root={tmp_path}")
    with (
        install_handlers() as sweep,
        sweep.deferred(lambda text: None),
        pytest.raises(Interrupted),
    ):
        train.execute(config)
    assert not (tmp_path / "r").exists()
