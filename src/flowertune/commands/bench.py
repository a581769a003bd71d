"""`flowertune bench`: how long the pieces of a training take on this machine. Top to bottom."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from flowertune.benchmark import timing
from flowertune.benchmark.setup import BenchTraining, endless_steps, prepare, step_batches
from flowertune.benchmark.timing import Timing, timeit, timeit_in_turn
from flowertune.config import saved
from flowertune.config.schema import Config
from flowertune.data.cache.store import open_or_build
from flowertune.data.device_pixels import DevicePixels
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.inference.logits import infer
from flowertune.metrics import measure
from flowertune.models.classifier import FROZEN
from flowertune.report.console import bench as report
from flowertune.report.console.run import ConsoleReporter, error_console
from flowertune.runs import log
from flowertune.runtime import memory
from flowertune.training.step import load_batches

PHOTOS = 512  # at most, of a call of validation or of cache building
CALLS = 3  # of what takes long: processes and cache building

IMPORTS = "import torch, open_clip"  # no tool on top of them starts faster

# What a process runs that is timed from its start to its first step, with a folder of config.yaml.
FIRST_STEP = "first step"
CHILD = """\
import sys
from flowertune import composition
from flowertune.commands import bench
composition.run(["--config-path", sys.argv[1]], bench.first_step)
"""


def execute(config: Config, as_json: bool) -> int:
    """Times the pieces, prints them and leaves nothing but the photo cache.

    Raises:
        UsageError: before anything was timed.
        FlowertuneError: out of memory.
        TrainingError: a loss that is not finite.
    """
    if config.model.name in FROZEN:
        raise UsageError(
            f"model={config.model.name}: takes no training steps, so none can be timed"
        )
    # JSON has stdout alone
    console = error_console() if as_json else ConsoleReporter()
    out_of_memory = (
        f"out of memory: lower trainer.batch_size={config.trainer.batch_size}, or "
        f"trainer.eval_batch_size={config.trainer.eval_batch_size}; {log.MORE_MEMORY}"
    )
    with memory.explain_oom(out_of_memory):
        measured = _measure(config, console)
    if as_json:
        print(json.dumps(measured, indent=2, allow_nan=False))
    else:
        report.show(console, measured)
    return EXIT_DONE


def first_step(config: Config) -> int:
    """What the timed process does: all that comes before the first step, and that step."""
    training = prepare(config, error_console())
    training.classifier.train()
    batches, photos = step_batches(training.loader, config.trainer.accumulation, 1)[0]
    training.run_step(load_batches(training.loader, batches, 1), photos)
    timing.synchronize(training.compute.device)
    training.check()
    print(FIRST_STEP, flush=True)
    return EXIT_DONE


def _measure(config: Config, console: ConsoleReporter) -> dict[str, Any]:
    settings = config.trainer
    training = prepare(config, console)
    compute, photos = training.compute, training.loader
    device = compute.device

    console.say(f"timing the start of {CALLS} processes")
    imports, start_up = _start_up(config)

    # training: on one step's batches that lie ready, then as the loop has it
    console.say("timing training steps")
    training.classifier.train()
    batches, in_step = step_batches(photos, settings.accumulation, 1)[0]
    resident = list(load_batches(photos, batches, 1))
    timing.reset_peak_memory(device)

    def step_with_data() -> None:
        training.run_step(next(steps), in_step)

    def bare_step() -> None:
        training.run_step(resident, in_step)

    operations = timing.count_operations(bare_step)  # before the step is recorded, if it is
    with closing(endless_steps(photos, settings.accumulation)) as steps:
        bare, with_data = _steps_timed(
            bare_step, step_with_data, device, in_step, streamed=not photos.pixels.resident
        )
    training.check()
    peak = timing.peak_memory(device)

    console.say("timing validation")
    split = training.cached.splits.get("val", training.cached.splits["train"])
    pixels = DevicePixels(split.eval_pixels[:PHOTOS], device, resident=photos.pixels.resident)
    labels = torch.tensor(split.split.labels[:PHOTOS])

    def validate() -> None:
        outputs = infer(
            training.classifier, pixels, photos.mean, photos.std, settings.eval_batch_size, compute
        )
        measure(outputs.logits, labels)

    validation = timeit(validate, device, len(labels))
    console.say("timing cache building")
    cache = _cache_building(config, training)
    console.say("timing a large matrix product")
    matrix_rate = timing.matrix_rate(compute)

    per_second = operations / bare.median
    mapped = "" if photos.pixels.resident else ", pixels streamed from the host"
    return {
        "method": config.method,
        "model": config.model.name,
        "head": config.head.name,
        "augmentation": config.augmentation.name,
        "loss": config.loss.name,
        "backbone": training.backbone.name,
        "tag": training.backbone.tag,
        "trainable_parameters": training.classifier.trainable_parameters,
        "batch_size": len(resident[0][0]),
        "accumulation": len(resident),
        "device": compute.device_name,
        "precision": compute.precision,
        "threads": compute.threads,
        "torch": torch.__version__,
        "train_step": _piece(
            bare, "forward, loss, backward, guard, step, on batches that lie ready on the device"
        ),
        "train_step_with_data": _piece(
            with_data, f"the same, and batches gathered, augmented and mixed{mapped}"
        ),
        "validation": _piece(
            validation, "pixels gathered, forward, metrics, in eval mode with LoRA merged"
        ),
        "cache": _piece(
            cache, "photos read, decoded and written to a new temporary folder, on all cores"
        ),
        "imports": _piece(imports, f'a new process: python -c "{IMPORTS}", in turn with the next'),
        "start_up": _piece(
            start_up,
            "a new process: imports, config, weights, photos found in the cache, model and one "
            "step; no baselines",
        ),
        "peak_memory": None if peak is None else {"bytes": peak, "of": _memory_of(device)},
        "arithmetic": {
            "operations": operations,
            "per_second": per_second,
            "matrix_product_per_second": matrix_rate,
            "share_of_matrix_product": per_second / matrix_rate,
        },
    }


def _steps_timed(
    bare_step: Callable[[], None],
    step_with_data: Callable[[], None],
    device: torch.device,
    photos: int,
    *,
    streamed: bool,
) -> list[Timing]:
    """Of both steps, in turn where the photos are resident.

    Streamed ones would be read ahead during the other step, for which nobody counts the time: the
    slower the reading, the more of it would be lost. So those steps come one after the other.
    """
    steps = [bare_step, step_with_data]
    if streamed:
        return [timeit(step, device, photos) for step in steps]
    return timeit_in_turn(steps, device, photos)


def _start_up(config: Config) -> tuple[Timing, Timing]:
    """Of processes in turn: importing what does the computing, and all up to the first step."""
    with tempfile.TemporaryDirectory(prefix="flowertune-bench-") as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(saved.to_yaml(asdict(config)), encoding="utf-8")
        imports = [sys.executable, "-c", f"{IMPORTS}; print({FIRST_STEP!r}, flush=True)"]
        whole = [sys.executable, "-c", CHILD, name]
        pairs = [
            [timing.seconds_to_line(each, FIRST_STEP, folder / "log") for each in (imports, whole)]
            for _ in range(CALLS)
        ]
    imported, started = zip(*pairs, strict=True)
    return Timing(imported, None), Timing(started, None)


def _cache_building(config: Config, training: BenchTraining) -> Timing:
    paths = training.cached.splits["train"].split.paths[:PHOTOS]

    def build_cache() -> float:
        with tempfile.TemporaryDirectory(prefix="flowertune-bench-") as folder:
            began = time.perf_counter()
            open_or_build(
                {"train": paths},
                training.backbone.preprocessing,
                train_form=[] if config.augmentation.name == "none" else ["train"],
                folder=Path(folder),
                progress=lambda description, done, total: None,
            )
            return time.perf_counter() - began

    return Timing(tuple(build_cache() for _ in range(CALLS)), len(paths))


def _piece(measured: Timing, holds: str) -> dict[str, Any]:
    return {**measured.to_dict(), "holds": holds}


def _memory_of(device: torch.device) -> str:
    return "of tensors on the GPU" if device.type == "cuda" else "resident, the whole process"
