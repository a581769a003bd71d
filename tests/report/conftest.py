"""A run as a training leaves it, for reports, with names that no page may take for markup."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowertune.config.schema import Config
from flowertune.data.cache.dataset import CachedDataset, CachedSplit
from flowertune.data.dataset import ImageDataset, Split
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.loader import TrainLoader
from flowertune.data.transforms.augment import AugmentSettings
from flowertune.inference.logits import Outputs, prediction_table
from flowertune.metrics import measure
from flowertune.runs import resume
from flowertune.training import report_data

ODD = ("rose", "<script>alert(1)</script>", "a$b$ & \"c\" 'd'", "牡丹", "odd\nname\u202e")
OF_CLASS = 6  # photos, in each split
STEPS = 4  # an epoch

LeaveRun = Callable[..., Path]


def _photo_set(classes: tuple[str, ...], splits: tuple[str, ...]) -> ImageDataset:
    labels = tuple(label for label in range(len(classes)) for _ in range(OF_CLASS))
    return ImageDataset(
        "drawn", Path("/photos"), "drawn for a test", classes, None,
        {
            split: Split(
                tuple(Path(f"/photos/{split}/<img src=x>{n}.jpg") for n in range(len(labels))),
                labels,
            )
            for split in splits
        },
    )  # fmt: skip


def _ending(
    classes: tuple[str, ...], splits: tuple[str, ...], seed: int = 0, noise: float = 1.5
) -> tuple[report_data.ReportInputs, dict[str, torch.Tensor]]:
    """What a training might have known at its end, and the logits of each split."""
    dataset = _photo_set(classes, splits)
    labels = torch.tensor(dataset.splits["train"].labels)
    generator = torch.Generator().manual_seed(seed)
    right = torch.nn.functional.one_hot(labels, len(classes)) * 2.0
    logits = {
        split: right + noise * torch.randn(right.shape, generator=generator) for split in splits
    }
    # each photo is of one color, which tells it from every other
    colors = np.random.default_rng(seed).integers(20, 235, (2, len(labels), 3, 1, 1))
    stores = np.broadcast_to(colors, (2, len(labels), 3, 40, 40)).astype(np.uint8)
    pixels = {
        split: DevicePixels(stores[int(split == "train")], torch.device("cpu"), resident=True)
        for split in splits
    }
    cached = {name: CachedSplit(each, None, None, None, (), "") for name, each in
              dataset.splits.items()}  # fmt: skip
    reported_split = "test" if "test" in splits else "val"
    embedding = torch.randn(len(labels), 8, generator=generator)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    recipe = AugmentSettings(
        (32, 32), "bicubic", (0.5, 1.0), (0.75, 1.33), 0.5, 0.0, 0.0, 0.0, None
    )
    training = TrainLoader(
        pixels["train"], labels, len(classes), torch.full((len(labels), 2), 40), recipe, mean, std,
        lambda epoch: [], seed,
    )  # fmt: skip
    ending = report_data.ReportInputs(
        cached=CachedDataset(dataset, cached, (), "d"),
        reported_split=reported_split,
        outputs=Outputs(embedding, logits[reported_split]),
        train_embedding=torch.randn(len(labels), 8, generator=generator),
        frozen_embedding=torch.randn(len(labels), 8, generator=generator),
        pixels=pixels,
        loader=training,
        seed=seed,
    )
    return ending, logits


@pytest.fixture
def ending() -> Callable[..., report_data.ReportInputs]:
    """`ending(classes, splits)`: what a training might have known at its end."""

    def ending(classes=ODD, splits=("train", "val", "test"), seed=0):
        return _ending(classes, splits, seed)[0]

    return ending


def _metrics(epochs: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, epochs * STEPS + 1):
        epoch = -(-step // STEPS)
        loss = 4.0 / step
        lines.append(
            {"step": step, "epoch": epoch, "split": "train", "lr": 1e-3 / step, "head_lr": 5e-3,
             "loss": loss, "ce": 0.75 * loss, "triplet": 0.25 * loss, "gradient_norm": 1.0}
        )  # fmt: skip
        if step % STEPS == 0:
            lines.append(
                {"step": step, "epoch": epoch, "split": "val", "loss": 2.0 / epoch, "top1": 0.5,
                 "top5": 1.0, "mean_per_class": 0.5}
            )  # fmt: skip
    return lines


def _leave_run(
    config: Config,
    classes: tuple[str, ...] = ODD,
    splits: tuple[str, ...] = ("train", "val", "test"),
    epochs: int = 3,
    keeps: bool = True,
    noise: float = 1.5,
) -> Path:
    ending, logits = _ending(classes, splits, noise=noise)
    labels = torch.tensor(ending.cached.dataset.splits["train"].labels)
    assert config.run.name is not None
    run, _ = resume.find_run(Path(config.run.root), config.run.name, asdict(config))
    measured = {split: measure(each, labels).to_dict() for split, each in logits.items()}
    baseline = {
        "trainable_parameters": 0,
        "splits": {split: measure(-each, labels).to_dict() for split, each in logits.items()},
    }
    with resume.open_run(run, asdict(config), {"python": "3"}):
        for split, each in logits.items():
            names = ending.cached.names(split)
            table = prediction_table(names, labels.tolist(), each, classes)
            run.write_table(f"predictions-{split}.csv", *table)
        run.write_lines("metrics.jsonl", _metrics(epochs))
        run.write_lines("timings.jsonl", [])
        run.write_results(
            {
                "run": run.path.name, "method": config.method, "model": config.model.name,
                "head": config.head.name, "augmentation": config.augmentation.name,
                "loss": config.loss.name, "backbone": config.backbone.name,
                "tag": config.backbone.tag, "weights_sha256": "w", "data_fingerprint": "d",
                "protocol": ending.cached.dataset.protocol, "seed": config.seed, "device": "cpu",
                "precision": "fp32", "trainable_parameters": 1234, "epochs_run": epochs,
                "best_epoch": epochs if epochs else None, "adapter_scale": None, "seconds": 12.5,
                "images_per_second": 100.0, "splits": measured, "notes": [],
                "baselines": {"zeroshot": None, "linear_probe": baseline},
            }
        )  # fmt: skip
    if keeps:
        report_data.write_report_data(run, ending)
    return run.path


@pytest.fixture(scope="session")
def leave_run(compose: Callable[..., Config]) -> LeaveRun:
    """`leave_run(root, *words, ...)`: the directory of such a run."""

    def leave_run(root: Path, *words: str, **how: Any) -> Path:
        words = words or ("method=triplet", "experiment=quickstart")
        return _leave_run(compose(*words, f"run.root={root}", "run.name=left"), **how)

    return leave_run
