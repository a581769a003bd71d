"""A training of seconds: a small tower, random pixels, and all that `train` needs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console

from flowertune.config.optimizer import OptimizerConfig
from flowertune.config.trainer import TrainerConfig
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.loader import TrainLoader
from flowertune.data.samplers import epoch_batches
from flowertune.data.transforms.augment import AugmentSettings
from flowertune.data.transforms.mixup import MixSettings
from flowertune.inference.logits import Outputs, infer
from flowertune.losses import factory
from flowertune.metrics import SplitMetrics, measure
from flowertune.models.adapters.registry import ADAPTERS
from flowertune.models.backbone import Backbone, load_directory
from flowertune.models.classifier import Classifier
from flowertune.models.heads import HeadInputs, LinearHead
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import Run
from flowertune.runtime.device import Compute
from flowertune.signals import StopRequest
from flowertune.training.cuda_graph import CudaGraphStep
from flowertune.training.early_stopping import EarlyStopping
from flowertune.training.ema import EMA
from flowertune.training.loop import train
from flowertune.training.optimizer import build_optimizer
from flowertune.training.state import TrainState
from flowertune.training.step import Criterion, TrainStep

CLASSES = 4
CPU = torch.device("cpu")
SETTINGS = TrainerConfig(epochs=2, batch_size=4, warmup_epochs=0.5, clip_norm=None)
MIXUP = AugmentSettings(
    size=(32, 32),
    interpolation="bilinear",
    scale=(0.5, 1.0),
    ratio=(0.75, 1.33),
    flip=0.5,
    brightness=0.1,
    contrast=0.0,
    saturation=0.0,
    mixing=MixSettings("mixup", 0.4, last_epoch=1000),
)


class RecordingReporter(ConsoleReporter):
    """Keeps what the loop reports of steps and epochs."""

    def __init__(self, on_step: Callable[[int, int, int], None], total: int) -> None:
        super().__init__(Console(quiet=True))
        self.on_step, self.total = on_step, total
        self.epochs: list[EpochReport] = []

    def step(self, epoch: int, done: int, lines: Sequence[Mapping[str, Any]]) -> None:
        self.on_step(epoch, done, self.total)

    def epoch(
        self,
        epoch: int,
        epochs: int,
        train_loss: float,
        val: Mapping[str, Any] | None,
        is_best: bool,
    ) -> None:
        self.epochs.append(EpochReport(epoch, train_loss, val, is_best))


class EpochReport(NamedTuple):
    epoch: int
    train_loss: float
    val: Mapping[str, Any] | None
    keep: bool


@dataclass
class Training:
    """One training, ready to start; what it leaves is in `classifier`, `run_dir` and `records`."""

    backbone: Backbone
    classifier: Classifier
    photos: TrainLoader
    optimizer: torch.optim.Optimizer
    compute: Compute
    run_dir: Run
    state: TrainState
    records: list[EpochReport] = field(default_factory=list)

    def infer(self) -> Outputs:
        preprocessing = self.backbone.preprocessing
        return infer(self.classifier, self.photos.pixels, preprocessing, 8, self.compute)

    def measure(self, infer: Callable[[], Outputs]) -> tuple[Outputs, SplitMetrics]:
        outputs = infer()
        return outputs, measure(outputs.logits, self.photos.labels)

    @property
    def average(self) -> EMA | None:
        return self.state.ema

    @property
    def best(self) -> EarlyStopping:
        return self.state.early_stopping

    def run(
        self,
        criterion: Criterion | None = None,
        infer_val: Callable[[], Outputs] | None = None,
        on_step: Callable[[int, int, int], None] = lambda epoch, done, total: None,
        val: bool = True,
    ) -> "Training":
        if criterion is not None:
            self.state.step.criterion = criterion
        reporter = RecordingReporter(on_step, self.state.steps_per_epoch)
        try:
            measure_val = partial(self.measure, infer_val or self.infer) if val else None
            train(self.state, self.run_dir, measure_val, reporter, StopRequest(), None)
        finally:
            self.records += reporter.epochs
        return self

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = (self.run_dir.path / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def timings(self) -> list[dict[str, Any]]:
        text = (self.run_dir.path / "timings.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def split(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["split"] == name]


Prepare = Callable[..., Training]


@pytest.fixture
def prepare(small_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """`prepare(count=16, model="lora", recipe=None, dropout=0.0, precision="fp32", **settings)`."""

    def make(
        *,
        count: int = 16,
        model: str = "lora",
        recipe: AugmentSettings | None = None,
        dropout: float = 0.0,
        precision: str = "fp32",
        lr: float = 1e-3,
        replay: CudaGraphStep | None = None,
        resident: bool = True,
        **settings: Any,
    ) -> Training:
        backbone = load_directory(small_dir, text=False)
        inputs = HeadInputs(backbone.embedding_dim, CLASSES, 1.0, 42, None, None, None)
        head = LinearHead(inputs, standardize=False)
        low_rank = {"rank": 2, "alpha": 4.0, "dropout": dropout, "targets": ["q", "v"]}
        adapter = ADAPTERS[model]
        options = low_rank if adapter.is_peft else {}
        prompts = adapter.attach(adapter.config(**options), backbone, 42)
        classifier = Classifier(backbone, head, adapter, prompts)
        rng = np.random.default_rng(5)
        trainer = replace(SETTINGS, **settings)
        photos = TrainLoader(
            pixels=DevicePixels(
                rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), CPU, resident=resident
            ),
            labels=torch.arange(count) % CLASSES,
            num_classes=CLASSES,
            sizes=None if recipe is None else torch.full((count, 2), 32),
            augmentation=recipe,
            mean=torch.tensor(backbone.preprocessing.mean),
            std=torch.tensor(backbone.preprocessing.std),
            batches=partial(epoch_batches, count, trainer.batch_size, 42),
            seed=42,
        )
        run_dir = Run(tmp_path_factory.mktemp("training"))
        run_dir.best.parent.mkdir(parents=True)
        groups = classifier.parameter_groups()
        optimizer = build_optimizer(
            groups, OptimizerConfig(lr=lr, head_lr=5e-3), CPU, recorded=replay is not None
        )
        compute = Compute(CPU, precision, threads=1)
        criterion = partial(factory.cross_entropy, label_smoothing=0.0)
        step = TrainStep(classifier, criterion, optimizer, compute, trainer.clip_norm, replay)
        return Training(
            backbone=backbone,
            classifier=classifier,
            photos=photos,
            optimizer=optimizer,
            compute=compute,
            run_dir=run_dir,
            state=TrainState(step, photos, trainer),
        )

    return make


@pytest.fixture(scope="session")
def mixup() -> AugmentSettings:
    return MIXUP


@pytest.fixture(scope="session")
def metrics() -> Callable[..., SplitMetrics]:
    """`metrics(top1=0.5, mean_per_class=0.5, loss=1.0)`: what a validation might have measured."""

    def metrics(top1: float = 0.5, mean_per_class: float = 0.5, loss: float = 1.0) -> SplitMetrics:
        return SplitMetrics(
            n=10, loss=loss, top1=top1, top1_interval=[0.0, 1.0], top5=1.0,
            mean_per_class=mean_per_class, per_class=[0.5], ece=0.1,
        )  # fmt: skip

    return metrics
