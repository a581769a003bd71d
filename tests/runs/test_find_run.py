"""Whether a run directory is new, finished, or refused."""

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from flowertune.config import saved
from flowertune.config.schema import Config
from flowertune.errors import UsageError
from flowertune.runs.directory import Run
from flowertune.runs.resume import find_run, open_run

Compose = Callable[..., Config]
Finished = Callable[..., Run]


def test_a_new_name_is_free_and_finding_it_creates_nothing(tmp_path: Path, config: Config) -> None:
    run, is_finished = find_run(tmp_path / "runs", "first", asdict(config))
    assert (run.path, is_finished) == (tmp_path / "runs" / "first", False)
    assert not run.path.parent.exists()


def test_a_finished_run_of_the_same_config_is_found_again(
    tmp_path: Path, config: Config, compose: Compose, finished: Finished
) -> None:
    written = finished(tmp_path, config)
    run, is_finished = find_run(tmp_path, "first", asdict(config))
    assert is_finished
    assert run == written
    assert run.results() == {"run": "first"}
    moved = compose("method=mixup", "experiment=quickstart", "run.root=elsewhere",
                    "data.residency=stream")  # fmt: skip
    assert find_run(tmp_path, "first", asdict(moved))[1]


def test_a_finished_run_of_another_config_is_refused_with_the_keys_that_differ(
    tmp_path: Path, config: Config, compose: Compose, finished: Finished
) -> None:
    finished(tmp_path, config)
    other = compose("method=lora", "experiment=quickstart", "seed=7", "trainer.clip_norm=null")
    with pytest.raises(UsageError) as refusal:
        find_run(tmp_path, "first", asdict(other))
    message = str(refusal.value)
    assert "\n" not in message
    for key in ("seed", "trainer.clip_norm", "augmentation.name", "augmentation.alpha", "method"):
        assert re.search(rf"[( ]{re.escape(key)}[,)]", message), key
    assert "run.root" not in message
    assert "trainer.epochs" not in message


@pytest.mark.parametrize(
    ("key", "default", "other"),
    [
        ("trainer.compile", "auto", "never"),
        ("augmentation.mix_off_epochs", "0", "1"),  # only mixup
        ("data.test_per_class", "100", "3"),  # only synthetic flowers
        ("baselines", "true", "false"),
        ("probe.weight_decay", "null", "0.1"),
        ("probe.solver", "lbfgs", "adamw"),
    ],
)
def test_a_key_missing_in_an_old_run_counts_as_its_default(
    tmp_path: Path, key: str, default: str, other: str, compose: Compose, finished: Finished
) -> None:
    words = ("method=mixup", "experiment=quickstart", "run.name=first")
    run = finished(tmp_path, compose(*words))
    stored = saved.read_values(run.path / "config.yaml")
    *groups, name = key.split(".")
    del reduce(getitem, groups, stored)[name]
    (run.path / "config.yaml").write_text(OmegaConf.to_yaml(stored))

    assert find_run(tmp_path, "first", asdict(compose(*words, f"{key}={default}")))[1]
    with pytest.raises(UsageError, match=rf"another config \({re.escape(key)}\)"):
        find_run(tmp_path, "first", asdict(compose(*words, f"{key}={other}")))


@pytest.mark.parametrize("torn", ["status.json", "config.yaml"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '{"state": []}',
        '{"state": "finished", "why": 3}',
        "model: {name: []}",
        None,
    ],
)
def test_damaged_files_are_refused_without_a_traceback(
    tmp_path: Path, config: Config, torn: str, content: str | None, finished: Finished
) -> None:
    run = finished(tmp_path, config)
    if content is None:
        (run.path / torn).unlink()
    else:
        (run.path / torn).write_text(content)
    with pytest.raises(UsageError):
        find_run(tmp_path, "first", asdict(config))


def test_a_directory_or_file_that_is_not_a_run_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes").write_text("mine")
    for name in ("photos", "notes"):
        with pytest.raises(UsageError, match="not a run"):
            find_run(tmp_path, name, {})
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "...", " ", "../x", "a/b", "a/", "/a", "sweeps"])
def test_names_that_are_not_one_directory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        find_run(tmp_path / "runs", name, {})
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path: Path, config: Config) -> None:
    with pytest.raises(UsageError, match="cannot be created"):
        find_run(tmp_path, "x" * 300, {})
    run, _ = find_run(tmp_path / "runs", "x" * 300, {})  # fails only on creation
    with pytest.raises(UsageError, match="cannot be created"), open_run(run, asdict(config), {}):
        pass


def test_the_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_run(Path("~/runs"), "x", {})[0].path == tmp_path / "runs" / "x"
