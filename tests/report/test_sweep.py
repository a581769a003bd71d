"""Console output at the end of a sweep."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from flowertune.analysis.settings import Job
from flowertune.commands import compose
from flowertune.config.schema import Config
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.sweep import show

SWEPT = ("model.rank", "optimizer.lr", "seed")


@pytest.fixture
def jobs(tmp_path: Path, finish: Callable[..., int]) -> list[Job]:
    """Two settings of two seeds; one of them is below the probe, one has a failed job."""
    made = []
    for rank, lr, seed, val, test in (
        ("4", "0.00012345678901", 1, 0.60, 0.30),
        ("4", "0.00012345678901", 2, 0.62, 0.32),
        ("8", "0.002", 1, 0.55, 0.50),
    ):
        name = f"{rank}-{seed}"

        def done(config: Config, val: float = val, test: float = test) -> int:
            return finish(config, val=val, test=test, probe=0.4)

        compose.run([f"seed={seed}", f"run.root={tmp_path}", f"run.name={name}"], done)
        words = {"model.rank": rank, "optimizer.lr": lr, "seed": str(seed)}
        made.append(Job(len(made) + 1, str(tmp_path / name), "lora", seed, words, "finished"))
    words = {"model.rank": "8", "optimizer.lr": "0.002", "seed": "2"}
    return [*made, Job(4, "runs/x", "lora", 2, words, "failed", "out of [memory]")]


def shown(jobs: list[Job], swept: tuple[str, ...] = SWEPT) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100, color_system=None, highlight=False, soft_wrap=True)
    show(ConsoleReporter(console), Path("runs/sweeps/mine"), jobs, swept)
    return out.getvalue()


def test_the_table_has_every_setting_with_its_std_baseline_and_protocol(
    jobs: list[Job],
) -> None:
    text = shown(jobs)
    assert "3 of 4 runs finished" in text
    assert "ViT-B-32-quickgelu openai; photos of data.seed=0" in text
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    first = ["4", "0.0001235", "2", "61.00% ± 1.41", "31.00% ± 1.41 *", "15.50%", "1,234"]
    second = ["8", "0.002", "1 of 2", "55.00%", "50.00%", "25.00%", "1,234"]
    probe = ["linear probe", "40.00%", "40.00%", "20.00%", "12"]
    assert rows.index(first) < rows.index(second) < rows.index(probe)
    assert "* below the linear probe of the same backbone on test" in text
    assert "± 10.0 points on val and 10.0 points on test" in text
    assert "zero-shot" not in text
    assert "…" not in text


def test_a_failed_job_is_named_with_its_reason(jobs: list[Job]) -> None:
    text = shown(jobs)
    assert "job 4 (model.rank=8 optimizer.lr=0.002 seed=2): failed: out of [memory]\n" in text
    assert text.endswith("runs/sweeps/mine/sweep.csv\n")


def test_a_sweep_over_seeds_only_is_one_row_of_its_method(jobs: list[Job]) -> None:
    text = shown(jobs[:2], ("seed",))
    assert re.search(r"^lora +2 +61\.00% ± 1\.41", text, re.MULTILINE)


def test_a_sweep_without_any_result_says_so(jobs: list[Job]) -> None:
    text = shown(jobs[3:])
    assert "0 of 1 runs finished" in text
    assert "out of [memory]" in text


def test_without_val_the_table_is_not_ranked(tmp_path: Path, finish: Callable[..., int]) -> None:
    words = [f"run.root={tmp_path}", "run.name=x"]
    compose.run(words, lambda config: finish(config, val=None, test=0.7))
    text = shown([Job(1, str(tmp_path / "x"), "lora", 42, {"seed": "42"}, "finished")], ("seed",))
    assert "no val split: not ranked" in text
    assert "val top-1" not in text
    assert re.search(r"^lora +1 +70\.00% +35\.00%", text, re.MULTILINE)
    assert re.search(r"^linear probe +40\.00%", text, re.MULTILINE)
