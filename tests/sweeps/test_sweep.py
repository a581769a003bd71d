"""Sweeps: every job is in the table, however it ends; with stand-ins for trainings."""

import json
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flowertune import cli
from flowertune.commands import compose
from flowertune.config.schema import Config
from flowertune.errors import Interrupted, TrainingError, UsageError
from flowertune.runs.resume import lock_run

Finish = Callable[..., int]
Table = Callable[..., list[dict[str, str]]]
Column = Callable[[str], list[str]]
WORDS = ("-m", "run.root=my runs", "method=mixup", "augmentation.alpha=0.1,0.2,0.4")


class Training:
    """Stand-in for a training that records each alpha and raises `trouble[alpha]`."""

    def __init__(self, finish: Finish) -> None:
        self.finish = finish
        self.trouble: dict[float, BaseException] = {}
        self.started: list[float] = []

    def __call__(self, config: Config) -> int:
        alpha: float = config.augmentation.alpha  # type: ignore[attr-defined]
        self.started.append(alpha)
        if alpha in self.trouble:
            raise self.trouble[alpha]
        return self.finish(config, val=alpha + 0.3)


@pytest.fixture
def training(finish: Finish) -> Training:
    return Training(finish)


def test_all_jobs_are_checked_before_the_first(training: Training) -> None:
    with pytest.raises(UsageError, match=r"augmentation\.alpha=-1"):
        compose.run(["-m", "method=mixup", "augmentation.alpha=0.2,-1"], training)
    assert training.started == []
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("mode", ["quiet", "json"])
def test_with_json_output_a_sweep_leaves_stdout_to_its_jobs(
    mode: str, training: Training, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compose.run([*WORDS, f"run.console={mode}"], training) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert ("3 of 3 runs finished" in err) == (mode == "json")


def test_a_sweep_writes_its_tables_and_hydra_writes_nothing_elsewhere(
    training: Training,
    capsys: pytest.CaptureFixture[str],
    column: Column,
    table: Table,
    sweep_folder: Callable[[], Path],
) -> None:
    assert compose.run(WORDS, training) == 0
    assert training.started == [0.1, 0.2, 0.4]
    assert column("augmentation.alpha") == ["0.1", "0.2", "0.4"]
    assert column("state") == ["finished"] * 3
    assert [row["augmentation.alpha"] for row in table("summary.csv")] == ["0.4", "0.2", "0.1"]
    job = json.loads((sweep_folder() / "jobs" / "1.json").read_text())
    assert (job["words"]["augmentation.alpha"], job["state"]) == ("0.1", "finished")
    for row in table():
        assert (Path(row["run"]) / "results.json").is_file()
    names = {path.name for path in sweep_folder().iterdir()}
    assert names == {"sweep.csv", "summary.csv", "jobs", "multirun.yaml"}
    top = {path.name for path in Path("my runs").iterdir() if path.name[0] != "."}
    assert top == {Path(row["run"]).name for row in table()} | {"sweeps"}
    assert [path.name for path in Path().iterdir()] == ["my runs"]
    text = capsys.readouterr().out
    assert "job 2 of 3: augmentation.alpha=0.2\n" in text
    assert text.index("job 3 of 3") < text.index("3 of 3 runs finished")


def test_a_failed_job_is_named_and_only_it_runs_again(
    training: Training, capsys: pytest.CaptureFixture[str], column: Column
) -> None:
    training.trouble[0.2] = TrainingError("the loss is not finite")
    assert compose.run(WORDS, training) == 1
    assert column("state") == ["finished", "failed", "finished"]
    assert column("why") == ["", "the loss is not finite", ""]
    output = capsys.readouterr()
    assert "job 2 of 3: failed: the loss is not finite\n" in output.err
    assert "job 2 (augmentation.alpha=0.2): failed: the loss is not finite\n" in output.out

    before = {path: path.stat().st_mtime_ns for path in Path("my runs").glob("*/results.json")}
    assert len(before) == 2
    training.trouble.clear()
    assert compose.run(WORDS, training) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert column("state") == ["finished"] * 3


def test_an_internal_error_is_shown_and_stops_no_other_job(
    training: Training, capsys: pytest.CaptureFixture[str], column: Column
) -> None:
    training.trouble[0.1] = ValueError("a fault\nin two lines")
    assert compose.run(WORDS, training) == 1
    assert column("state") == ["failed", "finished", "finished"]
    assert column("why")[0] == "ValueError: a fault"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 0), 0), ((0, 1), 1), ((2, 2), 2), ((0, 2), 1), ((2, 1), 1)]
)
def test_the_exit_code_of_a_sweep_follows_from_its_jobs(
    codes: tuple[int, int], expected: int, finish: Finish
) -> None:
    left = iter(codes)

    def execute(config: Config) -> int:
        code = next(left)
        if code == 2:
            raise UsageError("no photos")
        return finish(config) if code == 0 else code

    assert compose.run(["-m", "seed=1,2"], execute) == expected


@pytest.mark.parametrize("interruption", [Interrupted(signal.SIGTERM), KeyboardInterrupt()])
def test_an_interruption_ends_the_sweep_and_the_table_shows_the_state_of_each_job(
    training: Training,
    interruption: KeyboardInterrupt,
    capsys: pytest.CaptureFixture[str],
    column: Column,
) -> None:
    training.trouble[0.2] = interruption
    with pytest.raises(KeyboardInterrupt):
        compose.run(WORDS, training)
    assert column("state") == ["finished", "interrupted", "not started"]
    assert "1 of 3 runs finished" in capsys.readouterr().out
    training.trouble.clear()
    assert compose.run(WORDS, training) == 0


def test_the_exit_code_is_that_of_the_signal(
    training: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flowertune.commands import train

    training.trouble = {0.1: UsageError("no photos"), 0.2: Interrupted(signal.SIGTERM)}
    monkeypatch.setattr(train, "execute", training)
    assert cli.main(["train", *WORDS]) == 143
    training.trouble[0.2] = KeyboardInterrupt()
    assert cli.main(["train", *WORDS]) == 130
    assert capsys.readouterr().err.endswith("flowertune train: interrupted\n")


def test_the_same_arguments_give_the_same_sweep_and_others_another(
    training: Training, column: Column
) -> None:
    words = ["-m", "run.root=my runs", "method=mixup", "seed=1"]
    compose.run(words, training)
    compose.run(words[::-1], training)
    assert column("seed") == ["1"]
    compose.run([*words, "trainer.epochs=3"], training)
    folders = [path for path in Path("my runs/sweeps").iterdir() if path.name[0] != "."]
    assert len(folders) == 2
    assert all(path.name.startswith("mixup-") for path in folders)


def test_a_smaller_sweep_keeps_no_old_rows(
    training: Training, tmp_path: Path, column: Column
) -> None:
    experiment = tmp_path / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    words = ["--config-dir", "conf", "experiment=mine", "run.root=my runs"]
    text = (
        "# @package _global_\ndefaults:\n  - override /method: mixup\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      augmentation.alpha: "
    )
    for values in ("0.1,0.2,0.4", "0.2,0.4"):
        experiment.write_text(text + values + "\n")
        assert compose.run(words, training) == 0
        assert column("augmentation.alpha") == values.split(",")


@pytest.mark.parametrize(
    ("words", "alphas", "seeds"),
    [
        (["experiment=sweep/alpha"], {0.1, 0.2, 0.4}, {42, 43}),
        (["-m", "experiment=sweep/alpha", "seed=7"], {0.1, 0.2, 0.4}, {7}),
        (["experiment=[quickstart,sweep/alpha]", "augmentation.alpha=0.8"], {0.8}, {42, 43}),
    ],
)  # fmt: skip
def test_a_sweep_experiment_needs_no_m_and_typed_values_win(
    words: list[str], alphas: set[float], seeds: set[int]
) -> None:
    configs: list[Config] = []

    def keep(config: Config) -> int:
        configs.append(config)
        raise UsageError("not now")

    assert compose.run(words, keep) == 2
    assert len(configs) == len(alphas) * len(seeds)
    assert {config.augmentation.alpha for config in configs} == alphas  # type: ignore[attr-defined]
    assert {config.seed for config in configs} == seeds
    assert {config.method for config in configs} == {"mixup"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,1"], "jobs 1 and 2 of the sweep have the same run"),
        (["seed=1,2", "run.name=mine"], "jobs 1 and 2 of the sweep have the same run"),
        (["run.root=a,b"], "run.root: must be the same for all jobs"),
        (["seed=1,2", "hydra/launcher=nope"], "unknown hydra/launcher"),
    ],
)
def test_an_invalid_sweep_is_refused_and_leaves_nothing(
    words: list[str], message: str, training: Training
) -> None:
    with pytest.raises(UsageError, match=message):
        compose.run(["-m", *words], training)
    assert list(Path().iterdir()) == []


def test_a_sweep_in_use_by_another_process_is_refused(
    training: Training, table: Table, sweep_folder: Callable[[], Path]
) -> None:
    words = ["-m", "run.root=my runs", "method=mixup", "seed=1"]
    compose.run(words, training)
    before = table()
    with (
        lock_run(sweep_folder()),
        pytest.raises(UsageError, match="in use by another process"),
    ):
        compose.run(words, training)
    assert table() == before


def test_an_interruption_can_be_pickled() -> None:
    interruption = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert isinstance(interruption, Interrupted)
    assert (str(interruption), interruption.exit_code) == ("interrupted by SIGTERM", 143)
