"""Checks before a run is tracked; the tracker does not change the run."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from flowertune import cli
from flowertune.commands import compose as commands_compose
from flowertune.config.logger import MlflowConfig, WandbConfig
from flowertune.config.schema import Config
from flowertune.runs import resume
from flowertune.tracking import tracker

TRACKERS = ["tensorboard", "wandb", "mlflow"]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_refused_before_anything_starts(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["train", "data=folder", "data.root=nowhere", f"logger={name}"]) == 2
    assert capfd.readouterr().err == (
        f"flowertune train: logger={name}: not installed; pip install 'flowertune[{name}]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_named_wandb_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert "not installed" in refusal(lambda: tracker.check(WandbConfig(mode="offline")))


def test_a_password_in_config_yaml_is_refused(
    monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    installed = ModuleSpec("mlflow", None, origin="mlflow.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed)
    tracker.check(MlflowConfig(uri="https://example.org/mlflow"))
    words = refusal(lambda: tracker.check(MlflowConfig(uri="postgresql://me:secret@host/runs")))
    assert words.startswith("logger.uri: contains a password")
    assert "secret" not in words


@pytest.mark.parametrize("name", TRACKERS)
def test_with_another_tracker_it_is_the_same_run(
    name: str,
    tmp_path: Path,
    config: Config,
    finished: Callable[..., Any],
    compose: Callable[..., Config],
) -> None:
    finished(tmp_path, config)
    words = ("method=mixup", "experiment=quickstart", f"logger={name}")
    tracked = compose(*words, "run.name=first")
    assert tracked.logger.name == name
    assert resume.find_run(tmp_path, "first", asdict(tracked))[1]
    assert compose(*words).run.name == compose(*words[:2]).run.name


def test_a_sweeps_jobs_are_grouped_by_its_name_unless_they_have_a_group(
    tmp_path: Path, finish: Callable[..., int]
) -> None:
    groups: list[str] = []

    def execute(config: Config) -> int:
        assert isinstance(config.logger, WandbConfig)
        groups.append(str(config.logger.group))
        return finish(config)

    words = ["-m", "seed=1,2", "logger=wandb", f"run.root={tmp_path}"]
    assert commands_compose.run(words, execute) == 0
    (sweep,) = (tmp_path / "sweeps").glob("[!.]*")
    assert groups == [sweep.name, sweep.name]
    assert commands_compose.run([*words, "seed=3,4", "logger.group=mine"], execute) == 0
    assert groups[2:] == ["mine", "mine"]
