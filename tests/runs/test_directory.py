"""Run directories: name, creation, files, and running again from config.yaml."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.errors import UsageError
from flowertune.runs import directory
from flowertune.runs.directory import LOCKS, Run
from flowertune.runs.resume import find_run

Compose = Callable[..., Config]
Finished = Callable[..., Run]


# names


def test_the_same_arguments_in_any_order_give_the_same_name() -> None:
    words = ["method=mixup", "seed=43", "data=folder", "data.root=/photos/my flowers"]
    assert run_name("mixup", words) == run_name("mixup", words[::-1])
    assert re.fullmatch(r"mixup-seed_43-data_folder-root_my_flowers-[0-9a-f]{6}",
                        run_name("mixup", words))  # fmt: skip


def test_the_name_without_arguments_is_the_method_and_neutral_keys_do_not_count() -> None:
    assert run_name("lora", []) == "lora"
    silent = ["method=lora", "run.root=/tmp/x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
              "+hydra.verbose=true", "++run.root=y", "data.residency=stream"]  # fmt: skip
    assert run_name("lora", silent) == "lora"
    assert run_name("lora", [*silent, "seed=1"]) == run_name("lora", ["seed=1"])


@pytest.mark.parametrize(
    "word",
    [
        "+x=1",
        "~data",
        "data.root=/a/b c",
        "data.root=../..",
        "data.root=/",
        "data.root=C:\\photos",
        "data.templates=['a photo of a {name}.', \"it's\"]",
        "backbone.path=/блок/花",
        "data.root=" + "long/" * 100 + "x" * 500,
        "seed=1\nrm -rf",
        "a=",
        "=",
    ],
)
def test_a_name_is_always_one_safe_directory(word: str, tmp_path: Path) -> None:
    name = run_name("lora", [word])
    assert re.fullmatch(r"lora[A-Za-z0-9._-]*-[0-9a-f]{6}", name)
    assert len(name) <= 90
    (tmp_path / name).mkdir()
    assert find_run(tmp_path / "other", name, {})[1] is False


def test_long_values_do_not_cut_off_short_ones() -> None:
    words = ["data.root=/photos/" + "x" * 100, "seed=42", "trainer.epochs=3"]
    assert run_name("lora", words).startswith("lora-seed_42-epochs_3-root_xxx")


def test_arguments_with_the_same_short_form_have_different_names() -> None:
    words = [["data.root=/a/photos"], ["data.root=/b/photos"], ["data.root=/a/photos", "seed=1"]]
    words += [["x=" + "y" * 200 + end] for end in "ab"]
    names = [run_name("lora", each) for each in words]
    assert len(set(names)) == len(names)


# files


def test_an_invalid_location_is_refused(tmp_path: Path, config: Config) -> None:
    (tmp_path / "file").write_text("")
    run, _ = find_run(tmp_path / "file", "first", asdict(config))
    with pytest.raises(UsageError, match=r"first: cannot be created \(Not a directory"):
        run.create(asdict(config), {})


def test_a_full_disk_at_the_start_leaves_no_directory(
    tmp_path: Path, config: Config, fill_disk: Callable[[], None]
) -> None:
    fill_disk()
    with pytest.raises(UsageError, match=r"cannot be created.*No space left"):
        Run(tmp_path / "first").create(asdict(config), {})
    assert list(tmp_path.rglob("*")) == [tmp_path / LOCKS]


def test_the_status_becomes_finished_after_the_results_are_written(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "first")
    run.create(asdict(config), {})
    status = run.path / "status.json"
    assert json.loads(status.read_text()) == {"state": "running", "why": None}
    assert run.best.parent.is_dir()
    assert run.adapter.is_dir()
    with pytest.raises(ValueError, match="JSON"):
        run.write_results({"loss": float("inf")})
    assert json.loads(status.read_text())["state"] == "running"
    run.write_results({"loss": 1.0})
    assert json.loads(status.read_text())["state"] == "finished"


def test_lines_and_tables_are_read_back_unchanged(tmp_path: Path) -> None:
    import csv

    run = Run(tmp_path)
    lines = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": None}]
    run.write_lines("metrics.jsonl", lines)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == lines
    rows = [['a, "b".jpg', "rosé"], ["c\nd.jpg", "x"], ["e\rf.jpg", "\r\n"]]
    run.write_table("p.csv", ["path", "label"], rows)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["path", "label"], *rows]


# running again


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=quickstart", "method=mixup"],
        ["data=folder", "data.root='/a/b c, [d]: #e'", "data.shots=4",
         "data.templates=['a {name}: \"x\"', 'null', '1e5']",
         "backbone=local", "backbone.path=../w", "backbone.text=false"],
        ["model=full", "head=cosine", "augmentation=none", "optimizer.eps=1e-12"],
        ["model=full", "head=text", "baselines=false", "trainer.clip_norm=null"],
        ["method=lora", "trainer.patience=3", "trainer.monitor=loss"],
        ["method=cutmix", "data.protocol=trainval", "probe.weight_decay=1e-2"],
        ["model.targets=[q,mlp]", "model.layers=[0,2]", "backbone=vit_b16_openai"],
    ],
)  # fmt: skip
def test_config_yaml_is_enough_to_run_again(
    tmp_path: Path, words: list[str], compose: Compose, finished: Finished
) -> None:
    config = compose(*words, "run.name=first", f"run.root={tmp_path}")
    run = finished(tmp_path, config)
    assert find_run(tmp_path, "first", asdict(config))[1]
    assert compose("--config-path", str(run.path)) == config
    again = compose("--config-path", str(run.path), "run.name=again", "seed=7")
    assert asdict(again) == {
        **asdict(config), "seed": 7, "run": {**asdict(config)["run"], "name": "again"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message"),
    [("trainer.epochs=two", "trainer.epochs=two: must be a whole number"),
     ("trainer.epochs=0", "trainer.epochs=0: must be at least 1"),
     ("trainer.epoch=3", "trainer.epoch: unknown key")],
)  # fmt: skip
def test_changed_keys_are_checked_when_running_again(
    tmp_path: Path, config: Config, word: str, message: str, compose: Compose, finished: Finished
) -> None:
    run = finished(tmp_path, config)
    with pytest.raises(UsageError, match=re.escape(message)):
        compose("--config-path", str(run.path), word)


def test_running_again_leaves_no_files_of_hydra(
    tmp_path: Path,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    compose: Compose,
    finished: Finished,
) -> None:
    run = finished(tmp_path, config)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(run.path.rglob("*"))
    assert compose("--config-path", str(run.path)) == config
    assert list(Path().iterdir()) == []
    assert sorted(run.path.rglob("*")) == before


def test_results_are_read_as_written(tmp_path: Path) -> None:
    run = directory.Run(tmp_path)
    run.write_results({"method": "lora", "top1": 0.1 + 0.2, "class": "é"})
    assert run.results() == {"method": "lora", "top1": 0.1 + 0.2, "class": "é"}
