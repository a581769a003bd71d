"""Set up a training for timing its steps: in no run directory, without baselines."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import torch
from torch import Tensor

from flowertune import seeding
from flowertune.config.augmentation import reads_train_pixels
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.cache_dir import cache_root
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.factory import (
    build_augmentation,
    list_images,
    pixels_are_resident,
    training_batches,
)
from flowertune.data.loader import TrainLoader, build_train_loader
from flowertune.errors import TrainingError
from flowertune.losses.factory import build_criterion, check_loss
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.factory import build_classifier, check_adapter, load_backbone
from flowertune.report.console.run import ConsoleReporter
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic
from flowertune.runtime.device import Compute, choose_compute
from flowertune.training.ema import EMA
from flowertune.training.step import Batch, TrainStep, build_step, load_batches, nonfinite_message


@dataclass(frozen=True)
class BenchTraining:
    """A training before its first step. `cached` has no test images."""

    compute: Compute
    backbone: Backbone
    classifier: Classifier
    cached: CachedDataset
    loader: TrainLoader
    step: TrainStep
    ema: EMA | None

    def run_step(self, batches: Iterable[Batch], n_images: int) -> None:
        """Run the loop's step, and update the average of the weights where there is one."""
        _, stepped = self.step.run(batches, n_images, "the benchmark")
        if stepped and self.ema is not None:
            self.ema.update()

    def check(self) -> None:
        """Raise TrainingError where a step was not finite that the host queued without looking.

        A step that the host waits for raises it by itself.
        """
        if self.step.found_inf.item():
            what = "loss or gradient of the benchmark"
            raise TrainingError(nonfinite_message(what, self.compute.precision))


def prepare(config: Config, console: ConsoleReporter) -> BenchTraining:
    """Prepare a training like `train`, without test images and baselines, in no run directory."""
    settings, cache = config.trainer, cache_root()
    compute = choose_compute(settings.device, settings.precision)
    make_deterministic(settings.deterministic, compute.device)
    memory.keep_freed()
    with console.progress():
        backbone = load_backbone(config.backbone, config.seed)
        check_adapter(config.model, backbone)
        dataset = list_images(config.data, cache, console.advance)
        splits = {name: split for name, split in dataset.splits.items() if name != "test"}
        cached = cache_dataset(
            replace(dataset, splits=splits),
            backbone.preprocessing,
            train_form=reads_train_pixels(config.augmentation),
            folder=cache,
            bad_files=config.data.bad_files,
            progress=console.advance,
        )
    train = cached.splits["train"]
    check_loss(config.loss, train.split.labels)

    # as in a training, so for the test images too, of which nothing is decoded here
    resident = pixels_are_resident(config.data, dataset, train, compute.device)
    backbone.model.to(compute.device)
    mean = torch.tensor(backbone.preprocessing.mean, device=compute.device)
    std = torch.tensor(backbone.preprocessing.std, device=compute.device)
    classes = len(dataset.class_names)
    classifier = build_classifier(
        config, backbone, classes, *_placeholder_inputs(backbone.embedding_dim, classes)
    ).to(compute.device)
    criterion = build_criterion(config.loss)
    step = build_step(classifier, criterion, compute, config.optimizer, settings, console.say)
    return BenchTraining(
        compute=compute,
        backbone=backbone,
        classifier=classifier,
        cached=cached,
        loader=build_train_loader(
            train,
            DevicePixels(train.eval_pixels, compute.device, resident=resident),
            classes,
            build_augmentation(config.augmentation, backbone.preprocessing.size, settings.epochs),
            mean,
            std,
            training_batches(config, torch.tensor(train.split.labels)),
            config.seed,
        ),
        step=step,
        ema=None if settings.ema is None else EMA(step.parameters, settings.ema),
    )


def _placeholder_inputs(width: int, classes: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Random features, class vectors and probe for a head; no time depends on them."""
    generator = seeding.generator(0, "bench")
    features, vectors = (torch.randn(rows, width, generator=generator) for rows in (64, classes))
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    probe = (vectors.double(), *(torch.zeros(n).double() for n in (classes, width)))
    return features, vectors, (*probe, torch.ones(width).double())


def step_batches(
    loader: TrainLoader, accumulation: int, epoch: int
) -> list[tuple[list[tuple[int, Tensor]], int]]:
    """List the steps of an epoch that are as large as the first: batches, and number of images."""
    batches = list(enumerate(loader.batches(epoch)))
    groups = [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]
    steps = [(group, sum(len(indices) for _, indices in group)) for group in groups]
    return [step for step in steps if step[1] == steps[0][1]]


def endless_steps(loader: TrainLoader, accumulation: int) -> Generator[Iterator[Batch], None, None]:
    """Yield the batches of one step after the other, an epoch's in one stream as in the loop.

    To be closed after the last.
    """
    for epoch in count(1):
        steps = [batches for batches, _ in step_batches(loader, accumulation, epoch)]
        with closing(load_batches(loader, chain.from_iterable(steps), epoch)) as stream:
            for batches in steps:
                yield islice(stream, len(batches))
