"""Comparison of runs: rows, tables, and tests image by image."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flowertune.analysis.compare import compare_runs
from flowertune.analysis.statistics import t_half_width
from flowertune.commands import compose
from flowertune.runs.directory import Run
from flowertune.runs.finished import FinishedRun, read_finished_run

Done = Callable[..., FinishedRun]
Refusal = Callable[[Callable[[], object]], str]


@pytest.fixture
def done(tmp_path: Path, finish: Callable[..., int]) -> Done:
    """`done(*words, **accuracies)`: a finished run with these arguments and accuracies."""

    def done(*words: str, **accuracies: float | None) -> FinishedRun:
        number = len(list(tmp_path.iterdir()))
        name = [f"run.root={tmp_path}", f"run.name=run{number}"]
        compose.run([*words, *name], lambda config: finish(config, **accuracies))
        return read_finished_run(tmp_path / f"run{number}")

    return done


def test_runs_that_differ_only_by_seed_are_one_row(done: Done) -> None:
    runs = [done("method=mixup", f"seed={seed}", val=seed / 100) for seed in (70, 72, 74)]
    ((row,),) = (group.settings for group in compare_runs(runs))
    assert (row.label, len(row.seed_runs)) == ("mixup", 3)
    estimate = row.estimate("val", "top1")
    assert estimate.mean == pytest.approx(0.72)
    assert estimate.std == pytest.approx(0.02)
    half = t_half_width([0.70, 0.72, 0.74])
    assert estimate.interval == pytest.approx((0.72 - half, 0.72 + half))


def test_a_row_is_named_by_its_method_and_the_values_that_differ(done: Done) -> None:
    runs = [
        done("method=mixup", "augmentation.alpha=0.1", "trainer.checkpoint_minutes=5"),
        done("method=mixup", "augmentation.alpha=0.4", val=0.6),
        done("method=vpt", "trainer.batch_size=8", probe=0.3),
    ]
    (group,) = compare_runs(runs)
    assert group.keys == ["method", "augmentation.alpha"]
    assert [row.label for row in group.settings] == [
        "mixup augmentation.alpha=0.1", "mixup augmentation.alpha=0.4",
        "vpt augmentation.alpha=null",
    ]  # fmt: skip
    probes = [row for row in group.rows("test") if row.setting is None]  # one probe differs
    assert [(row.name, row.estimate("top1").mean) for row in probes] == [
        ("linear probe for mixup augmentation.alpha=0.1", 0.4),
        ("linear probe for vpt augmentation.alpha=null", 0.3),
    ]
    assert group.best_first().settings[0].label == "mixup augmentation.alpha=0.4"


def test_other_images_or_another_backbone_are_another_table(done: Done) -> None:
    runs = [done("seed=1"), done("seed=2", "data.seed=5"), done("seed=1", "backbone=tiny")]
    found = compare_runs([*runs, done("seed=3")])
    assert [[len(row.seed_runs) for row in group.settings] for group in found] == [[2], [1], [1]]


def test_the_same_training_twice_is_refused(done: Done, refusal: Refusal) -> None:
    runs = [done("seed=1"), done("seed=1")]
    assert "same training; give only one" in refusal(lambda: compare_runs(runs))


@pytest.mark.parametrize("words", [("method=zeroshot",), ("method=linear_probe",)])
def test_runs_without_effect_of_the_seed_count_once_with_a_wilson_interval(
    done: Done, words: tuple[str, ...]
) -> None:
    runs = [done(*words, f"seed={seed}", test=0.4) for seed in (1, 2)]
    ((row,),) = (group.settings for group in compare_runs(runs))
    estimate = row.estimate("test", "top1")
    assert len(row.seed_runs) == 1
    assert (estimate.mean, estimate.std) == (0.4, None)
    assert estimate.interval == tuple(runs[0].results["splits"]["test"]["top1_interval"])
    assert row.estimate("test", "mean_per_class").interval is None


def test_a_probe_trained_with_adamw_has_seeds(done: Done) -> None:
    words = ("method=linear_probe", "probe.solver=adamw")
    runs = [done(*words, f"seed={seed}", test=seed / 10) for seed in (1, 2)]
    ((row,),) = (group.settings for group in compare_runs(runs))
    assert len(row.seed_runs) == 2
    assert row.estimate("test", "top1").std == pytest.approx(0.1 / 2**0.5)


def test_two_methods_are_compared_on_the_same_images_for_each_common_seed(done: Done) -> None:
    runs = [
        done("method=zeroshot", "seed=42", test=0.5),
        *(done("method=lora", f"seed={seed}", test=0.6) for seed in (1, 2)),
        *(done("method=mixup", f"seed={seed}", test=0.4) for seed in (2, 3)),
    ]
    predictions = runs[2].run.path / "predictions-test.csv"
    header, *lines = predictions.read_text().splitlines()
    predictions.write_text("\n".join([header, *reversed(lines)]))  # matched by path, not by order
    (group,) = compare_runs(runs)
    pairs = {(pair.first.label, pair.second.label): pair for pair in group.pairs}
    both = pairs["lora", "mixup"]
    assert list(both.tests) == [2]  # the common seed
    assert (both.tests[2].only_first, both.tests[2].only_second) == (20, 0)
    assert both.difference == pytest.approx(-0.2)
    zero_shot = pairs["zeroshot", "lora"]
    assert {seed: test.only_second for seed, test in zero_shot.tests.items()} == {1: 10, 2: 10}
    assert [test.p for test in zero_shot.tests.values()] == [pytest.approx(2 / 2**10)] * 2


def test_without_test_images_val_is_compared(done: Done) -> None:
    (group,) = compare_runs([done("method=lora", test=None), done("method=vpt", test=None)])
    assert group.reported_split == "val"
    assert len(group.pairs) == 1


def test_unfinished_or_damaged_runs_are_refused(
    done: Done, refusal: Refusal, tmp_path: Path
) -> None:
    run = done("seed=1")
    assert refusal(lambda: read_finished_run(tmp_path)).startswith(
        f"{tmp_path}: is not a finished run; finished runs in it: 1; give one"
    )
    Run(run.run.path).write_status("interrupted", "by SIGTERM")
    assert refusal(lambda: read_finished_run(run.run.path)).endswith(
        "is not a finished run (interrupted)"
    )
    Run(run.run.path).write_status("finished")
    (run.run.path / "config.yaml").write_text("[")
    assert "config.yaml is missing or damaged" in refusal(lambda: read_finished_run(run.run.path))
    other = done("seed=1", "method=vpt")
    table = run.run.path / "predictions-test.csv"
    lines = table.read_text().splitlines(keepends=True)
    for damaged in ([], lines[:1], lines[:-1], [*lines[:-1], lines[1]], [*lines[:-1], "a,b,c,2\n"]):
        table.write_text("".join(damaged))
        (group,) = compare_runs([run, other])
        said = refusal(lambda group=group: group.pairs)
        assert said.startswith(f"{run.run.path}: predictions-test.csv is missing or damaged")
