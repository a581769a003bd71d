"""`flowertune reproduce`: real trainings, and what is read out of the directories they leave."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flowertune import cli


def test_real_trainings_end_in_the_three_files_and_can_be_compared_again(
    flowertune: Callable[..., object],
    small: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = flowertune("reproduce", *small, "method=zeroshot,lora", "seed=1,2", cwd=tmp_path)
    assert process.returncode == 0, process.stderr  # type: ignore[attr-defined]
    (csv_file,) = tmp_path.glob("runs/reproduce/*/reproduce.csv")
    assert csv_file.with_suffix(".md").read_text().count("\n| lora") == 2  # val and test
    assert csv_file.with_suffix(".html").read_text().startswith("<!doctype html>")
    with csv_file.open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("runs/lora-*/results.json")]
    top1 = [run["splits"]["test"]["top1"] for run in runs]
    assert float(rows["lora"]["test_top1_mean"]) == pytest.approx(sum(top1) / 2)
    zero_shot = runs[0]["baselines"]["zeroshot"]["splits"]["test"]["top1"]
    assert float(rows["zeroshot"]["test_top1_mean"]) == pytest.approx(zero_shot)

    monkeypatch.chdir(csv_file.parents[3])
    assert cli.main(["report", str(csv_file.parent)]) == 0
    assert "a single one if the seed has no effect" in capsys.readouterr().out
