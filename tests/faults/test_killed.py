"""A training that is killed again and again, with kill -9, ends as one that was left alone."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

DYING = Path(__file__).with_name("dying.py")
SMALL = (
    "experiment=quickstart", "trainer.epochs=3", "trainer.ema=0.9", "model.dropout=0.2",
    "trainer.eval_batch_size=16", "data.train_per_class=4", "data.val_per_class=2",
    "data.test_per_class=1",
)  # fmt: skip
OFTEN, SELDOM = "trainer.checkpoint_minutes=0.00001", "trainer.checkpoint_minutes=null"

Kill = tuple[str, int, str]  # kind and number of the moment (see dying.py), how often it saves


def life(folder: Path, words: Sequence[str], kind: str = "never", at: int = 1) -> tuple[int, str]:
    """A start of the program; its exit code and what it said."""
    process = subprocess.run(
        [sys.executable, str(DYING), kind, str(at), "train", *SMALL, *words],
        cwd=folder,
        env={**os.environ, "FLOWERTUNE_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return process.returncode, process.stdout


def results(run: Path) -> dict[str, bytes]:
    """All that must not depend on how often a run was killed."""
    files = [run / "metrics.jsonl", run / "photos.csv", *run.glob("predictions-*.csv")]
    files += [*(run / "adapter").iterdir(), *(run / "checkpoints").rglob("*.safetensors")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def check(folder: Path, method: str, kills: Sequence[Kill]) -> None:
    words = (f"method={method}", "run.name=r")
    whole = folder / "whole"
    whole.mkdir()
    assert life(whole, words)[0] == 0
    cut = folder / "cut"
    cut.mkdir()
    said: list[str] = []
    for kind, at, how_often in kills:
        exit_code, output = life(cut, (*words, how_often), kind, at)
        assert exit_code == -9, f"{kind} {at} of {kills}: {exit_code}\n{output}"
        said.append(output)
    exit_code, output = life(cut, words)
    said.append(output)
    assert exit_code == 0, output
    assert "Traceback" not in "".join(said)
    assert any("going on after" in output for output in said)
    expected, found = results(whole / "runs/r"), results(cut / "runs/r")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    left = [path for path in (cut / "runs").rglob("*") if path.name.startswith(".")]
    assert {path.name for path in left} <= {".locks"}


def test_killed_in_a_checkpoint_and_in_validation(tmp_path: Path) -> None:
    check(tmp_path, "mixup", [("flush", 48, OFTEN), ("validation", 2, SELDOM)])


def drawn(seed: int) -> list[Kill]:
    """Nine kills, in an order in which each moment is still to come."""
    rng = random.Random(seed)
    return [
        ("decoding", rng.randint(1, 80), SELDOM),
        ("decoding", rng.randint(81, 120), SELDOM),
        ("features", rng.randint(1, 3), SELDOM),
        ("rename", rng.randint(8, 14), OFTEN),
        ("step", rng.randint(1, 3), OFTEN),
        ("flush", rng.randint(12, 30), OFTEN),
        ("validation", rng.randint(1, 3), SELDOM),
        ("flush", rng.randint(5, 20), OFTEN),
        ("rename", rng.randint(4, 9), OFTEN),
    ]


@pytest.mark.faults
@pytest.mark.parametrize(("method", "seed"), [("mixup", 1), ("triplet", 2), ("vpt", 3)])
def test_killed_nine_times_at_drawn_moments(tmp_path: Path, method: str, seed: int) -> None:
    check(tmp_path, method, drawn(seed))


@pytest.mark.faults
def test_killed_at_any_time_from_outside(tmp_path: Path) -> None:
    """Not at moments that somebody thought of."""
    words = ("method=mixup", "run.name=r", "trainer.epochs=12", OFTEN)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert life(whole, words)[0] == 0
    rng, kills = random.Random(4), 0
    while kills < 8:
        process = subprocess.Popen(
            [sys.executable, "-m", "flowertune", "train", *SMALL, *words],
            cwd=cut,
            env={**os.environ, "FLOWERTUNE_CACHE": str(cut / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        process.stdout.readline()  # once it has said something
        time.sleep(rng.uniform(0, 1.5))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
    exit_code, output = life(cut, words)
    assert exit_code == 0, output
    assert kills >= 4
    expected, found = results(whole / "runs/r"), results(cut / "runs/r")
    assert [name for name in expected if found.get(name) != expected[name]] == []
