"""Measurements of bench_growth.py in this process: cache building, steps and validation."""

import time
from contextlib import closing
from typing import Any

import numpy as np
import torch

from flowertune.benchmark.setup import BenchTraining, prepare
from flowertune.benchmark.timing import WARM_UP, synchronize
from flowertune.config.augmentation import reads_train_pixels
from flowertune.config.schema import Config
from flowertune.data import factory
from flowertune.data.cache.dataset import cache_dataset
from flowertune.data.cache_dir import cache_root
from flowertune.data.device_pixels import DevicePixels
from flowertune.inference.logits import infer
from flowertune.models import factory as model_factory
from flowertune.report.console.run import ConsoleReporter
from peers.memory import MemoryWatch

VAL_CALLS = 5


def cache_building(config: Config) -> dict[str, Any]:
    """Measure seconds and memory from the listed images to the finished cache of all splits."""
    backbone, cache = model_factory.load_backbone(config.backbone, config.seed, None), cache_root()
    dataset = factory.list_images(config.data, cache, _unseen)
    watch, began = MemoryWatch(), time.perf_counter()
    cache_dataset(
        dataset,
        backbone.preprocessing,
        train_form=reads_train_pixels(config.augmentation),
        folder=cache,
        bad_files="stop",
        progress=_unseen,
    )
    seconds = time.perf_counter() - began
    photos = sum(len(split) for split in dataset.splits.values())
    return {"photos": photos, "seconds": seconds, **watch.peaks()}


def steps_and_validation(config: Config, steps: int, val_photos: int) -> dict[str, Any]:
    """Measure milliseconds per image of training and validation, and the memory of both.

    Separately: the memory of the setup (reading weights, building the model), and the seconds of
    the first reading of all pixels, which maps their pages and verifies them.
    """
    watch = MemoryWatch()
    training = prepare(config, ConsoleReporter())
    preparing = watch.peaks()
    device = training.setup.compute.device
    touched = time.perf_counter()
    for split in training.setup.cached.splits.values():
        for pixels in (split.train_pixels, split.eval_pixels):
            if pixels is not None:
                pixels.verify_all()
    touched = time.perf_counter() - touched

    watch = MemoryWatch()
    step_ms = _step_ms(training, steps)
    val_ms = _val_ms(training, config, val_photos)
    return {
        "step_ms": step_ms,
        "val_ms": val_ms,
        "touch_seconds": touched,
        **watch.peaks(),
        "preparing": preparing,
        "gpu_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
        "device": training.setup.compute.device_name,
        "precision": training.setup.compute.precision,
        "resident": training.state.loader.pixels.resident,
    }


def _step_ms(training: BenchTraining, steps: int) -> float:
    """Milliseconds per image, from the first of `steps` steps to the last, with their data."""
    training.state.step.classifier.train()
    with closing(training.steps()) as stream:
        for _ in range(WARM_UP):
            training.run_step(next(stream))
        synchronize(training.setup.compute.device)
        began = time.perf_counter()
        for _ in range(steps):
            training.run_step(next(stream))
        synchronize(training.setup.compute.device)
        seconds = time.perf_counter() - began
    return 1000 * seconds / (steps * training.step_size)


def _val_ms(training: BenchTraining, config: Config, photos: int) -> float:
    """Milliseconds per image, over slices of `photos` images spread over val."""
    compute, settings = training.setup.compute, config.trainer
    stored = training.setup.cached.splits["val"].eval_pixels
    starts = np.linspace(0, len(stored) - photos, VAL_CALLS).astype(int)
    slices = [
        DevicePixels(
            stored[at : at + photos], compute.device, resident=training.state.loader.pixels.resident
        )
        for at in starts
    ]
    seconds = 0.0
    for call, pixels in enumerate([slices[0], *slices]):  # the first is warm-up
        synchronize(compute.device)
        began = time.perf_counter()
        infer(
            training.state.step.classifier, pixels, training.setup.backbone.preprocessing,
            settings.eval_batch_size, compute,
        )  # fmt: skip
        seconds += time.perf_counter() - began if call else 0.0
    return 1000 * seconds / (VAL_CALLS * photos)


def _unseen(description: str, done: int, total: int | None) -> None:
    """Ignore progress."""
