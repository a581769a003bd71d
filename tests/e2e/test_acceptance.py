"""What the README claims of whole trainings. Minutes each: `make test M=slow`."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def results_below(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/results.json"))]


def test_the_quickstart_climbs_from_zero_shot_to_probe_to_mixup(
    flowertune: Any, tmp_path: Path
) -> None:
    words = ("experiment=quickstart", "method=mixup", "seed=42,43,44")
    process = flowertune("train", "-m", *words, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = results_below(tmp_path)
    assert len(results) == 3
    zero_shot, probe = (
        mean(each["baselines"][name]["splits"]["test"]["top1"] for each in results)
        for name in ("zeroshot", "linear_probe")
    )
    mixup = mean(each["splits"]["test"]["top1"] for each in results)
    assert 0.25 <= zero_shot <= 0.75
    assert zero_shot < probe < mixup


def test_mixup_reaches_96_percent_on_real_photos(
    flowertune: Any, shared_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    process = flowertune(
        "train",
        "method=mixup",
        "data=folder",
        f"data.root={shared_folder('data/flowers17')}",
        "backbone=local",
        f"backbone.path={shared_folder('weights/deit-tiny-imagenet')}",
        "backbone.text=false",
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    (results,) = results_below(tmp_path)
    assert results["splits"]["val"]["top1"] >= 0.96
    assert results["baselines"]["zeroshot"] is None
    assert "no zero-shot: backbone.text=false" in results["notes"]
