"""`flowertune reproduce`: its jobs and tables, with stand-ins for trainings."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from flowertune import cli
from flowertune.commands import compose
from flowertune.config.schema import Config
from flowertune.errors import TrainingError
from flowertune.runs.resume import lock_run

Finish = Callable[..., int]
Refusal = Callable[[Callable[[], object]], str]
QUICK = ("experiment=quickstart", "run.root=my runs")


class Training:
    """Stand-in for a training that records its calls and raises `trouble[method]`."""

    def __init__(self, finish: Finish) -> None:
        self.finish = finish
        self.trouble: dict[str, BaseException] = {}
        self.begun: list[tuple[str, int]] = []

    def __call__(self, config: Config) -> int:
        self.begun.append((config.method, config.seed))
        if config.method in self.trouble:
            raise self.trouble[config.method]
        return self.finish(config, val=0.85 + config.seed / 1000, test=0.9 + config.seed / 10_000)


@pytest.fixture
def training(finish: Finish) -> Training:
    return Training(finish)


def reproduce(words: Sequence[str], execute: Callable[[Config], int]) -> int:
    return compose.run(words, execute, "reproduction")


def folder() -> Path:
    (found,) = (path for path in Path("my runs/reproduce").iterdir() if path.name[0] != ".")
    return found


def rows() -> dict[str, dict[str, str]]:
    with (folder() / "reproduce.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def planned() -> list[tuple[str, int]]:
    jobs = [json.loads(path.read_text()) for path in (folder() / "jobs").glob("*.json")]
    return [(job["method"], job["seed"]) for job in sorted(jobs, key=lambda job: job["number"])]


def test_every_method_runs_with_three_seeds_or_once_if_the_seed_has_no_effect(
    training: Training,
) -> None:
    training.trouble["zeroshot"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        reproduce(QUICK, training)
    trained = ["lora", "mixup", "triplet", "vpt", "vpt_deep", "best"]
    assert planned() == [
        ("zeroshot", 42), ("linear_probe", 42),
        *((method, seed) for seed in (42, 43, 44) for method in trained),
    ]  # fmt: skip


def test_without_a_text_encoder_there_is_no_zero_shot(training: Training) -> None:
    training.trouble["linear_probe"] = KeyboardInterrupt()
    local = ["backbone=local", "backbone.path=weights", "backbone.text=false", "seed=1"]
    with pytest.raises(KeyboardInterrupt):
        reproduce([*QUICK, *local], training)
    methods = [method for method, _ in planned()]
    assert methods == ["linear_probe", "lora", "mixup", "triplet", "vpt", "vpt_deep", "best"]


def test_a_probe_trained_with_adamw_runs_with_every_seed(training: Training) -> None:
    words = ["method=linear_probe", "probe.solver=adamw", "seed=1,2"]
    assert reproduce([*QUICK, *words], training) == 0
    assert training.begun == [("linear_probe", 1), ("linear_probe", 2)]


def test_arguments_choose_methods_and_seeds_and_apply_to_every_training(training: Training) -> None:
    words = ["method=lora,linear_probe", "seed=1,2", "trainer.batch_size=8", "data.shots=4"]
    assert reproduce([*QUICK, *words], training) == 0
    assert training.begun == [("lora", 1), ("linear_probe", 1), ("lora", 2)]
    assert list(rows()) == ["lora", "linear_probe"]
    assert (rows()["lora"]["seeds"], rows()["linear_probe"]["seed_matters"]) == ("1 2", "False")
    for path in Path("my runs").glob("*/config.yaml"):
        assert "batch_size: 8" in path.read_text()
        assert "shots: 4" in path.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.lr=1e-3,1e-4"], "optimizer.lr=1e-3,1e-4: only method and seed may have"),
        (["experiment=sweep/alpha"], "no sweeps here"),
        (["hydra/sweeper=optuna"], "hydra/sweeper"),
        (["run.name=mine", "seed=1,2"], "have the same run"),
        (["method=lora,mixup", "augmentation.alpha=0.2"], "augmentation.alpha"),
        (["method=lora", "seed=1,-2"], "seed=-2"),
    ],
)
def test_invalid_arguments_are_refused_before_any_training(
    words: list[str], said: str, training: Training, refusal: Refusal
) -> None:
    if "hydra/sweeper=optuna" in words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs flowertune[sweep]")
    assert said in refusal(lambda: reproduce([*QUICK, *words], training))
    assert training.begun == []
    assert list(Path().iterdir()) == []


def test_a_failed_or_damaged_run_is_named_and_only_it_runs_again(
    training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "seed=1", "method=lora,mixup,vpt"]
    training.trouble["mixup"] = TrainingError("the loss is not finite")
    assert reproduce(words, training) == 1
    assert list(rows()) == ["lora", "vpt"]
    named = "job 2 (method=mixup seed=1): failed: the loss is not finite"
    assert f"\n{named}\n" in capsys.readouterr().out
    assert f"- {named}\n" in (folder() / "reproduce.md").read_text()
    training.trouble.clear()
    (predictions,) = Path("my runs").glob("lora*/predictions-test.csv")
    predictions.write_text("path,label,prediction,probability\n")
    assert reproduce(words, training) == 1
    assert list(rows()) == ["mixup", "vpt"]
    document = (folder() / "reproduce.md").read_text()
    assert (
        f"job 1 (method=lora seed=1): refused: {predictions.parent}: {predictions.name}" in document
    )


def test_an_interruption_writes_the_tables_and_the_same_command_continues(
    training: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flowertune.commands import train

    words = [*QUICK, "seed=1", "method=lora,mixup,vpt"]
    training.trouble["mixup"] = KeyboardInterrupt()
    monkeypatch.setattr(train, "execute", training)
    assert cli.main(["reproduce", *words]) == 130
    assert list(rows()) == ["lora"]
    states = [json.loads(path.read_text())["state"] for path in (folder() / "jobs").glob("*.json")]
    assert sorted(states) == ["finished", "interrupted", "not started"]
    assert "training time left: less than a minute" in capsys.readouterr().out
    finished = next(Path("my runs").glob("lora*/results.json"))
    before = finished.stat().st_mtime_ns
    training.trouble.clear()
    assert cli.main(["reproduce", *words]) == 0
    assert list(rows()) == ["lora", "mixup", "vpt"]
    assert finished.stat().st_mtime_ns == before


def test_a_second_process_is_refused(training: Training, refusal: Refusal) -> None:
    words = [*QUICK, "method=lora", "seed=1"]
    assert reproduce(words, training) == 0
    with lock_run(folder()):
        assert "in use by another process" in refusal(lambda: reproduce(words, training))
    assert len(training.begun) == 1


@pytest.mark.slow
def test_a_launcher_runs_jobs_in_parallel(finish: Finish) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs flowertune[sweep]")
    root = Path("my runs").absolute()  # the workers of an earlier test live on, in its folder
    words = ["experiment=quickstart", f"run.root={root}", "method=lora", "seed=1,2"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert reproduce([*words, *launcher], finish) == 0
    assert rows()["lora"]["seeds"] == "1 2"


def test_the_reference_is_shown_for_the_same_dataset_and_backbone(
    training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(["run.root=my runs", "method=mixup,vpt"], training) == 0
    assert folder().name == "flowers102_mixup_vpt"
    mixup = rows()["mixup"]
    # by hand: 0.9043 on 100 images of "test", std 0.0001
    assert float(mixup["test_top1_mean"]) == pytest.approx(0.9043)
    assert (mixup["val_reference"], mixup["test_reference"]) == ("0.9088", "0.9109")
    assert float(mixup["test_difference"]) == pytest.approx(-0.0066)
    half = 1.95996 * (0.9109 * 0.0891 / 100) ** 0.5
    assert float(mixup["test_difference_low"]) == pytest.approx(-0.0066 - half, abs=1e-4)
    assert mixup["test_interval_holds_reference"] == "True"
    document = (folder() / "reproduce.md").read_text()
    line = next(line for line in document.splitlines() if "vpt, val minus test" in line)
    assert "-1.13 points, std 0.09, 95% interval -" in line
    assert "reference: +5.65 points, 95% interval -" in line
    assert (
        "mixup on test: -0.66 points from the reference's 91.09; 95% interval"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("words", [["data.shots=4"], ["backbone=vit_b32_laion2b"]])
def test_the_reference_is_not_shown_for_another_dataset_or_backbone(
    words: list[str], training: Training
) -> None:
    assert reproduce(["run.root=my runs", "method=mixup", "seed=1", *words], training) == 0
    assert rows()["mixup"]["test_reference"] == ""
    document = (folder() / "reproduce.md").read_text()
    assert "published numbers are for Flowers-102, ViT-B/32 openai" in document
    assert "91.09" not in document
