"""data.resize: the same pixels in training, evaluation, predict and exports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from flowertune import load

MODES = {"crop": "shortest", "pad": "longest", "squash": "squash"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of wide images that differ in their ends only."""
    for name, ends in (("dark", 20), ("light", 220)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng(number).integers(0, 25, (40, 160, 3))
            pixels = (noise + 90).astype(np.uint8)
            pixels[:, :40] = pixels[:, 120:] = ends + noise[:, :40]
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


@pytest.mark.parametrize("mode", MODES)
def test_a_run_keeps_its_way_to_resize(
    mode: str, images: Path, flowertune: Any, tmp_path: Path
) -> None:
    done = flowertune(
        "train", "method=linear_probe", "backbone=tiny", "data=folder", "data.root=set",
        f"data.resize={mode}", "run.name=a", "run.report=false", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    top1 = json.loads((tmp_path / "runs/a/results.json").read_text())["splits"]["test"]["top1"]
    assert (top1 == 1.0) == (mode != "crop")  # the ends are cropped away

    model = load(tmp_path / "runs/a")
    path = images / "light/3.png"
    config = PreprocessCfg(
        size=64, mean=model.preprocessing.mean, std=model.preprocessing.std, resize_mode=MODES[mode]
    )
    expected = image_transform_v2(config, is_train=False)(Image.open(path))
    found = model.images(model.load_pixels(path)[None])[0]
    assert np.allclose(found.numpy(), expected.numpy(), atol=1e-6)

    exported = flowertune(
        "export", "runs/a", "--format", "open_clip", "--output", "out", cwd=tmp_path
    )
    assert exported.returncode == 0, exported.stderr
    written = json.loads((tmp_path / "out/open_clip_config.json").read_text())
    assert written["preprocess_cfg"]["resize_mode"] == MODES[mode]
