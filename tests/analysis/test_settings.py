"""Tables of a sweep, compared with NumPy on made-up results."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowertune.analysis.settings import Job, group_settings, job_rows, setting_rows
from flowertune.commands import compose
from flowertune.config.schema import Config

Finish = Callable[..., int]
SWEPT = ("augmentation.alpha", "seed")


def job(number: int, root: Path, alpha: str, seed: int, state: str = "finished") -> Job:
    words = {"augmentation.alpha": alpha, "seed": str(seed)}
    return Job(number, str(root / f"{alpha}-{seed}"), "mixup", seed, words, state)


@pytest.fixture
def trained(tmp_path: Path, finish: Finish) -> Callable[..., Job]:
    """`trained(number, alpha, seed, words..., val=...)`: a finished job with those accuracies."""

    def make(number: int, alpha: str, seed: int, *words: str, **accuracies: float) -> Job:
        name = f"{alpha}-{seed}"
        typed = ["method=mixup", f"augmentation.alpha={alpha}", f"seed={seed}", *words]

        def done(config: Config) -> int:
            return finish(config, **accuracies)

        compose.run([*typed, f"run.root={tmp_path}", f"run.name={name}"], done)
        return job(number, tmp_path, alpha, seed)

    return make


def test_mean_and_std_over_seeds_best_on_val_first(trained: Callable[..., Job]) -> None:
    val = {"0.1": [0.5, 0.6, 0.7], "0.4": [0.9, 0.5, 0.7]}
    test = {"0.1": [0.9, 0.8, 0.9], "0.4": [0.1, 0.2, 0.1]}  # reversed: test must not select
    jobs = [
        trained(10 * index + seed, alpha, seed, val=val[alpha][seed], test=test[alpha][seed])
        for index, alpha in enumerate(val)
        for seed in range(3)
    ]
    ((best, second),) = group_settings(jobs, SWEPT)
    assert best.values == {"method": "mixup", "augmentation.alpha": "0.4"}
    assert [results["seed"] for results in best.results] == [0, 1, 2]
    for setting, alpha in ((best, "0.4"), (second, "0.1")):
        for split, values in (("val", val[alpha]), ("test", test[alpha])):
            top1 = setting.estimate(split, "top1")
            assert top1.mean == pytest.approx(np.mean(values))
            assert top1.std == pytest.approx(np.std(values, ddof=1))
        per_class = setting.estimate("val", "mean_per_class")
        assert per_class.mean == pytest.approx(np.mean(val[alpha]) / 2)

    header, rows = setting_rows([[best, second]], SWEPT)
    summary = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["augmentation.alpha"] for row in summary] == ["0.4", "0.1"]
    assert summary[0]["test_top1_std"] == pytest.approx(np.std(test["0.4"], ddof=1))
    assert summary[0]["seeds"] == "0 1 2"


def test_without_val_the_order_is_kept(trained: Callable[..., Job]) -> None:
    jobs = [trained(n, f"0.{n}", 1, val=None, test=n / 10, probe=0.15) for n in (1, 3, 2)]
    (group,) = group_settings(jobs, SWEPT)
    assert [setting.values["augmentation.alpha"] for setting in group] == ["0.1", "0.3", "0.2"]
    assert [setting.is_below_probe for setting in group] == [True, False, False]


def test_one_seed_has_no_std(trained: Callable[..., Job]) -> None:
    ((setting,),) = group_settings([trained(1, "0.1", 1)], SWEPT)
    assert setting.estimate("val", "top1").std is None
    header, rows = setting_rows([[setting]], SWEPT)
    assert dict(zip(header, rows[0], strict=True))["val_top1_std"] is None


@pytest.mark.parametrize(
    ("probe", "test", "below"),
    [(0.6, 0.5, True), (0.5, 0.5, False), (0.4, 0.5, False), (0.75, None, True)],
)
def test_below_the_probe_is_judged_on_test_if_there_is_one(
    trained: Callable[..., Job], probe: float, test: float | None, below: bool
) -> None:
    ((setting,),) = group_settings([trained(1, "0.1", 1, val=0.7, test=test, probe=probe)], SWEPT)
    assert setting.is_below_probe is below
    header, rows = setting_rows([[setting]], SWEPT)
    assert dict(zip(header, rows[0], strict=True))["below_linear_probe"] is below


def test_other_images_are_another_table(trained: Callable[..., Job]) -> None:
    jobs = [trained(1, "0.1", 1), trained(2, "0.1", 2, "data.seed=5"), trained(3, "0.2", 3)]
    groups = group_settings(jobs, SWEPT)
    assert [[len(setting.results) for setting in group] for group in groups] == [[1, 1], [1]]


def test_unfinished_jobs_are_counted_but_not_averaged(
    trained: Callable[..., Job], tmp_path: Path
) -> None:
    jobs = [
        trained(1, "0.1", 1, val=0.5),
        job(2, tmp_path, "0.1", 2, "failed"),
        job(3, tmp_path, "0.2", 1, "refused"),
    ]
    ((setting,),) = group_settings(jobs, SWEPT)
    assert (setting.n_jobs, len(setting.results)) == (2, 1)
    assert setting.estimate("val", "top1").mean == 0.5
    header, rows = job_rows(jobs, SWEPT)
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["state"] for row in table] == ["finished", "failed", "refused"]
    assert [row["val_top1"] for row in table] == [0.5, None, None]
    assert [row["linear_probe_test_top1"] for row in table] == [0.4, None, None]
    assert table[0]["zeroshot_val_top1"] is None
    assert [row["augmentation.alpha"] for row in table] == ["0.1", "0.1", "0.2"]
