"""`flowertune bench` from the command line."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowertune import cli

# Two calls of everything, one of what takes long: the command line is the same otherwise.
FEW = """\
import sys
from flowertune import cli
from flowertune.benchmark import timing
from flowertune.commands import bench
timing.MIN_CALLS = timing.MAX_CALLS = 2
timing.MATRIX_SIDE["cpu"] = 256
bench.CALLS = 1
sys.exit(cli.main(sys.argv[1:]))
"""
PIECES = ("train_step", "train_step_with_data", "validation", "cache", "imports", "start_up")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def bench(environment: dict[str, str], folder: Path) -> Any:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", FEW, "bench", *words],
            cwd=folder,
            env={**environment, "TMPDIR": str(folder / "tmp")},
            capture_output=True,
            text=True,
            check=False,
        )

    (folder / "tmp").mkdir()
    return run


@pytest.fixture(scope="module")
def measured(bench: Any, small: tuple[str, ...]) -> Any:
    process = bench("--json", "method=mixup", "trainer.accumulation=2", "trainer.ema=0.9", *small)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def numbers(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        for each in node.values():
            yield from numbers(each)
    elif isinstance(node, (int, float)):
        yield node


def test_json_has_every_number(measured: Any) -> None:
    for piece in PIECES:
        seconds = measured[piece]["seconds"]
        assert 0 < seconds["least"] <= seconds["median"] <= seconds["most"]
        assert measured[piece]["holds"]
    assert measured["train_step"]["photos"] == 32
    assert measured["train_step_with_data"]["photos"] == 32
    assert measured["validation"]["photos"] == 40
    assert measured["cache"]["photos"] == 60
    assert (measured["batch_size"], measured["accumulation"]) == (16, 2)
    arithmetic = measured["arithmetic"]
    assert arithmetic["per_second"] == pytest.approx(
        arithmetic["operations"] / measured["train_step"]["seconds"]["median"]
    )
    assert measured["peak_memory"]["bytes"] > 2**20
    assert all(number > 0 and math.isfinite(number) for number in numbers(measured))


@pytest.mark.usefixtures("measured")
def test_it_leaves_nothing(folder: Path) -> None:
    assert os.listdir(folder) == ["tmp"]
    assert [name for name in os.listdir(folder / "tmp") if name.startswith("flowertune")] == []


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("method=vpt", "trainer.precision=bf16"), marks=pytest.mark.slow),
        ("method=best", "head.from_probe=true"),
        pytest.param(("method=triplet", "head=text"), marks=pytest.mark.slow),
    ],
)
def test_methods_are_timed_and_shown(words: tuple[str, ...], bench: Any, small: Any) -> None:
    process = bench(*small, *words)
    assert process.returncode == 0, process.stderr
    for text in ("training step with data", "images/s", "large matrix product", "peak memory"):
        assert text in process.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method=linear_probe",), "model=linear_probe: has no training steps to time"),
        (("method=zeroshot",), "model=zeroshot: has no training steps to time"),
        (("-m", "seed=1,2"), "are not supported; give each key one value"),
        (("experiment=sweep/alpha",), "are not supported; give each key one value"),
        (("trainer.batch_size=0",), "trainer.batch_size=0: must be at least 1"),
        (("method=mixupp",), "did you mean mixup?"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--json", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("flowertune bench: ")
    assert message in printed.err
    assert os.listdir(tmp_path) == []
