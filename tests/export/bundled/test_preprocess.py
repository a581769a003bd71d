"""The bundled preprocess.py gives the same pixels as flowertune."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowertune.data.image import Preprocessing, decode_image, eval_pixels, image_bytes
from flowertune.data.transforms.augment import normalize
from flowertune.export.bundled import preprocess

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(50, 40), (40, 51), (32, 32), (33, 97), (300, 29), (1, 5), (64, 63)]


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Path, Preprocessing], Any]:
    """`load` of the file as in an export."""

    def load(photo: Path, wanted: Preprocessing) -> Any:
        shutil.copy(preprocess.__file__, tmp_path / "preprocess.py")
        (tmp_path / "preprocessing.json").write_text(json.dumps(wanted.to_dict()))
        spec = importlib.util.spec_from_file_location("alone", tmp_path / "preprocess.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load(photo)

    return load


@pytest.mark.parametrize(
    ("size", "interpolation", "mode", "fill"),
    [
        ((32, 32), "bicubic", "shortest", 0),
        ((33, 33), "bilinear", "shortest", 0),
        ((24, 40), "bilinear", "shortest", 0),
        ((32, 32), "bilinear", "longest", 127),
        ((24, 41), "bicubic", "longest", 0),
        ((31, 40), "bilinear", "squash", 0),
    ],
)
def test_images_equal_flowertunes_bit_for_bit(
    size: tuple[int, int], interpolation: str, mode: str, fill: int, load: Any, tmp_path: Path
) -> None:
    wanted = Preprocessing(size, MEAN, STD, interpolation, mode, fill)
    generator = np.random.default_rng(1)
    for number, (width, height) in enumerate(SIZES):
        values = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
        picture = Image.fromarray(values if number % 2 else values[..., :3].copy())
        exif = Image.Exif()
        exif[0x0112] = number + 1  # one of eight orientations
        photo = tmp_path / f"{number}.png"
        picture.save(photo, exif=exif)
        pixels = torch.from_numpy(eval_pixels(decode_image(image_bytes(photo)), wanted))
        ours = normalize(pixels[None], MEAN, STD)
        assert torch.equal(torch.from_numpy(load(photo, wanted)), ours), (width, height)
