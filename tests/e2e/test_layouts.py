"""Ten datasets as people have them, each trained, evaluated and classified with one command."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from layouts import LAYOUTS, sample_images

TRAIN = ("train", "method=linear_probe", "backbone=tiny", "run.name=a", "run.report=false")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sample_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_command_each(name: str, images: Any, flowertune: Any, tmp_path: Path) -> None:
    make, typed, n_images, n_train = LAYOUTS[name]
    make(images, tmp_path / "set")
    done = flowertune(*TRAIN, *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "runs/a/photos.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == n_images
    assert len({row["label"] for row in rows}) == 3
    if n_train > 0:
        assert sum(row["split"] == "train" for row in rows) == n_train
    results = json.loads((tmp_path / "runs/a/results.json").read_text())
    assert results["splits"]["train"]["top1"] > 0.5

    evaluated = flowertune("evaluate", "runs/a", "--json", *typed, "split=all", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    measured = json.loads(evaluated.stdout)["splits"]
    assert sum(split["n"] for split in measured.values()) == n_images

    predicted = flowertune("predict", "runs/a", "set", "--format", "json", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    lines = list(map(json.loads, predicted.stdout.splitlines()))
    assert len(lines) >= n_images
    assert all(len(line["predictions"]) == 3 for line in lines)
