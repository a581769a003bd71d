"""bench_predict.py: open_clip and flowertune run the same model."""

import argparse
from pathlib import Path

import bench_predict
import numpy as np
import pytest
from peers import plain_clip
from PIL import Image

import flowertune

COLORS = {"aster": (90, 60, 200), "iris": (40, 40, 90), "lily": (230, 230, 220),
           "tulip": (220, 40, 30)}  # fmt: skip


@pytest.fixture
def colored(tmp_path: Path) -> Path:
    """train/ and val/ of four classes with three JPEGs each, in the class's own color."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, color in COLORS.items():
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = rng.normal(color, 20, (40, 50, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.jpg")
    return tmp_path / "photos"


def test_open_clip_gives_the_same_predictions_as_flowertune(
    small_dir: Path, colored: Path, tmp_path: Path
) -> None:
    options = argparse.Namespace(backbone=small_dir, device="cpu")
    model = flowertune.load(bench_predict._trained(options, colored, tmp_path))
    photos = sorted(colored.rglob("*.jpg"))
    job = {"batch_size": 16, "workers": 0}
    plain = list(plain_clip.answers(model, photos, job))
    assert plain == [answer.label for answer in model.predict(photos)]
    assert plain == list(bench_predict._by_flowertune(model, photos, job))
    assert len(set(plain)) > 1
