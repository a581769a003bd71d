"""A training killed repeatedly with kill -9 ends like an uninterrupted one."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

OFTEN, SELDOM = "trainer.checkpoint_minutes=0.00001", "trainer.checkpoint_minutes=null"

Kill = tuple[str, int, str]  # kind and number of the moment (kill_worker.py), how often it saves
Check = Callable[[str, Sequence[Kill]], None]


@pytest.fixture
def check(live: Any, results: Any, whole: Any, tmp_path: Path) -> Check:
    """`check(method, kills)`: after these kills, the results equal an uninterrupted run's."""

    def check(method: str, kills: Sequence[Kill]) -> None:
        said = []
        for kind, at, how_often in kills:
            exit_code, output = live(tmp_path, [f"method={method}", how_often], kind, at)
            assert exit_code == -9, f"{kind} {at} of {kills}: {exit_code}\n{output}"
            said.append(output)
        exit_code, output = live(tmp_path, [f"method={method}"])
        assert exit_code == 0, output
        assert any("continuing the training" in output for output in [*said, output])
        expected, found = whole(method), results(tmp_path)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
        left = [path.name for path in (tmp_path / "runs").rglob(".*")]
        assert left == [".locks"]

    return check


def test_killed_in_a_checkpoint_and_in_validation(check: Check) -> None:
    check("mixup", [("flush", 75, OFTEN), ("validation", 2, SELDOM)])


def drawn(seed: int) -> list[Kill]:
    """Nine kills, each at a moment later than the one before."""
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
def test_killed_nine_times_at_random_moments(check: Check, method: str, seed: int) -> None:
    check(method, drawn(seed))


@pytest.mark.faults
def test_killed_at_any_time_from_outside(
    start: Any, live: Any, results: Any, tmp_path: Path
) -> None:
    """At random times, not at chosen moments."""
    words = ("method=mixup", "trainer.epochs=12", OFTEN)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert live(whole, words)[0] == 0
    rng, kills = random.Random(4), 0
    for _ in range(8):
        process = start(cut, *words)
        process.stdout.readline()  # after its first line
        time.sleep(rng.uniform(0, 1.5))
        kills += process.poll() is None
        process.kill()
        process.communicate()
    assert kills >= 4
    exit_code, output = live(cut, words)
    assert exit_code == 0, output
    expected, found = results(whole), results(cut)
    assert [name for name in expected if found.get(name) != expected[name]] == []
