"""Runs as if trained, and a process that opens exports without flowertune."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowertune.config.schema import Config
from flowertune.files import sha256_of
from flowertune.metrics import measure
from flowertune.models import serialization
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier
from flowertune.models.factory import build_classifier
from flowertune.runs.directory import FORMAT, Run

CLASSES = ("rose", "Gänseblümchen", "a | [b]")
READER = Path(__file__).with_name("reader.py")
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Left:
    """A run that nothing was trained for, and its classifier, LoRA unmerged."""

    run: Path
    classifier: Classifier


@pytest.fixture(scope="session")
def val_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """val/<class>/*.png: of several shapes, one of them turned by its EXIF."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate([(40, 50), (64, 33), (32, 32), (90, 47), (31, 80)]):
        colors = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)
        place = root / "val" / CLASSES[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[ORIENTATION] = 6 if number == 1 else 1
        picture.save(place, exif=exif)
    return root


@pytest.fixture(scope="session")
def leave(compose: Callable[..., Config], small_dir: Path, val_photos: Path) -> Callable[..., Left]:
    """`leave(root, *words, backbone=DIR)`: the run of these words; the photos are `val_photos`."""

    def leave(root: Path, *words: str, backbone: Path = small_dir) -> Left:
        name = f"run-{len(list(root.iterdir())) if root.exists() else 0}"
        config = compose(
            "backbone=local", f"backbone.path={backbone}", "backbone.text=false", "data=folder",
            f"data.root={val_photos}", f"run.root={root}", f"run.name={name}", *words,
        )  # fmt: skip
        model = load_directory(backbone, text=False, tag=config.backbone.tag)
        generator = torch.Generator().manual_seed(1)
        features = torch.randn(20, model.embedding_dim, generator=generator)
        classifier = build_classifier(config, model, len(CLASSES), features, None, None)
        with torch.no_grad():
            for parameter in classifier.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
        run = Run(root / name)
        root.mkdir(exist_ok=True)
        run.create(asdict(config), {"format": FORMAT, **model.facts()})
        serialization.save_classifier(run.adapter, config, model, classifier, CLASSES)
        photos = sorted(val_photos.rglob("*.png"))
        rows = [
            [split, path.relative_to(val_photos).as_posix(), path.parent.name, sha256_of(path)]
            for split in ("train", "val")
            for path in photos
        ]
        run.write_table("photos.csv", ["split", "path", "label", "sha256"], rows)
        logits = torch.randn(10, len(CLASSES), generator=generator)
        measured = asdict(measure(logits, torch.arange(10) % len(CLASSES)))
        run.write_results(
            {
                "method": config.method, "protocol": "made for a | test", "seed": 42,
                "model": config.model.name, "device": "cpu", "precision": "fp32", "notes": [],
                "trainable_parameters": classifier.trainable_parameters,
                "splits": {"val": measured},
                "baselines": {"zeroshot": None, "linear_probe": None},
            }
        )  # fmt: skip
        return Left(run.path, classifier)

    return leave


@pytest.fixture(scope="session")
def opened_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., dict[str, list[list[float]]]]:
    """`opened_alone(folders, photos, base=None)`: each export's logits by its card's own lines.

    In a process of its own, which cannot import flowertune. By the folder, in the photos' order.
    base: the open_clip directory that an adapter belongs to.
    """

    def opened_alone(
        folders: Sequence[Path], photos: Sequence[Path], base: Path | None = None
    ) -> dict[str, list[list[float]]]:
        asked = {"folders": list(map(str, folders)), "photos": list(map(str, photos)),
                 "base": str(base)}  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.run(
            [sys.executable, READER],
            input=json.dumps(asked),
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        logits: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        return logits

    return opened_alone
