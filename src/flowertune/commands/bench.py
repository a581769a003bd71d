"""`flowertune bench`: time the pieces of a training on this machine."""

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
from flowertune.benchmark.setup import BenchTraining, prepare
from flowertune.benchmark.timing import Timing, timeit, timeit_in_turn
from flowertune.config import saved
from flowertune.config.augmentation import reads_train_pixels
from flowertune.config.schema import Config
from flowertune.data.cache.store import open_or_build
from flowertune.data.dataset import Split
from flowertune.data.device_pixels import DevicePixels
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.inference.logits import infer
from flowertune.metrics import measure
from flowertune.report.console import bench as report
from flowertune.report.console.run import ConsoleReporter, error_console
from flowertune.runtime import memory

MAX_IMAGES = 512  # of validation or of cache building
GROUPS = ("model", "head", "augmentation", "loss")  # named in the results
CALLS = 3  # of what takes long: processes and cache building

IMPORTS = "import torch, open_clip"  # no tool on top of them starts faster

# What a process runs that is timed from its start to its first step, with a folder of config.yaml.
FIRST_STEP = "first step"
CHILD = """\
import sys
from flowertune.commands import bench, compose
compose.run(["--config-path", sys.argv[1]], bench.first_step)
"""


def execute(config: Config, as_json: bool) -> int:
    """Time the pieces and print them; only the image cache is left behind.

    Raises:
        UsageError: before anything was timed.
        FlowertuneError: out of memory.
        TrainingError: a loss that is not finite.
    """
    if not config.model.trains_backbone:
        raise UsageError(
            f"model={config.model.name}: takes no training steps, so none can be timed"
        )
    # JSON has stdout alone
    console = error_console() if as_json else ConsoleReporter()
    with memory.explain_oom(memory.oom_message("bench", config.trainer)):
        results = _measure(config, console)
    if as_json:
        print(json.dumps(results, indent=2, allow_nan=False))
    else:
        report.show(console, results)
    return EXIT_DONE


def first_step(config: Config) -> int:
    """Set up a training and run its first step, in the process that is timed."""
    training = prepare(config, error_console())
    training.classifier.train()
    with closing(training.steps()) as steps:
        training.run_step(next(steps), training.step_size)
    timing.synchronize(training.setup.compute.device)
    training.check()
    print(FIRST_STEP, flush=True)
    return EXIT_DONE


def _measure(config: Config, console: ConsoleReporter) -> dict[str, Any]:
    training = prepare(config, console)
    compute, loader = training.setup.compute, training.loader
    device = compute.device

    console.say(f"timing the start of {CALLS} processes")
    imports, start_up = _time_start_up(config)

    # training: on one step's batches that lie ready, then as the loop has it
    console.say("timing training steps")
    training.classifier.train()
    n_images = training.step_size
    with closing(training.steps()) as steps:
        resident = list(next(steps))
    timing.reset_peak_memory(device)

    def step_with_data() -> None:
        training.run_step(next(steps), n_images)

    def bare_step() -> None:
        training.run_step(resident, n_images)

    operations = timing.count_operations(bare_step)  # before the step is recorded, if it is
    with closing(training.steps()) as steps:
        bare, with_data = _time_steps(
            bare_step, step_with_data, device, n_images, streamed=not loader.pixels.resident
        )
    training.check()
    peak = timing.peak_memory(device)
    is_gpu = device.type == "cuda"
    memory_kind = "of tensors on the GPU" if is_gpu else "resident, the whole process"

    console.say("timing validation")
    split = training.setup.cached.splits.get("val", training.setup.cached.splits["train"])
    pixels = DevicePixels(split.eval_pixels[:MAX_IMAGES], device, resident=loader.pixels.resident)
    labels = torch.tensor(split.split.labels[:MAX_IMAGES])

    batch_size = config.trainer.eval_batch_size

    def validate() -> None:
        outputs = infer(training.classifier, pixels, loader.mean, loader.std, batch_size, compute)
        measure(outputs.logits, labels)

    validation = timeit(validate, device, len(labels))
    console.say("timing cache building")
    cache = _time_cache_building(config, training)
    console.say("timing a large matrix product")
    matrix_rate = timing.matrix_rate(compute)

    operation_rate = operations / bare.median
    streaming = "" if loader.pixels.resident else ", pixels streamed from the host"
    return {
        "method": config.method,
        **{group: getattr(config, group).name for group in GROUPS},
        "backbone": training.setup.backbone.name,
        "tag": training.setup.backbone.tag,
        "trainable_parameters": training.classifier.trainable_parameters,
        "batch_size": len(resident[0][0]),
        "accumulation": len(resident),
        "device": compute.device_name,
        "precision": compute.precision,
        "threads": compute.threads,
        "torch": torch.__version__,
        "train_step": _entry(
            bare, "forward, loss, backward, guard, step, on batches that lie ready on the device"
        ),
        "train_step_with_data": _entry(
            with_data, f"the same, and batches gathered, augmented and mixed{streaming}"
        ),
        "validation": _entry(
            validation, "pixels gathered, forward, metrics, in eval mode with LoRA merged"
        ),
        "cache": _entry(
            cache, "photos read, decoded and written to a new temporary folder, on all cores"
        ),
        "imports": _entry(imports, f'a new process: python -c "{IMPORTS}", in turn with the next'),
        "start_up": _entry(
            start_up,
            "a new process: imports, config, weights, photos found in the cache, model and one "
            "step; no baselines",
        ),
        "peak_memory": None if peak is None else {"bytes": peak, "of": memory_kind},
        "arithmetic": {
            "operations": operations,
            "per_second": operation_rate,
            "matrix_product_per_second": matrix_rate,
            "share_of_matrix_product": operation_rate / matrix_rate,
        },
    }


def _time_steps(
    bare_step: Callable[[], None],
    step_with_data: Callable[[], None],
    device: torch.device,
    n_images: int,
    *,
    streamed: bool,
) -> list[Timing]:
    """Time both steps, alternating if the images are resident.

    Streamed ones would be read ahead during the other step, for which nobody counts the time: the
    slower the reading, the more of it would be lost. So those steps come one after the other.
    """
    steps = [bare_step, step_with_data]
    if streamed:
        return [timeit(step, device, n_images) for step in steps]
    return timeit_in_turn(steps, device, n_images)


def _time_start_up(config: Config) -> tuple[Timing, Timing]:
    """Time alternating processes: the imports alone, and all up to the first step."""
    with tempfile.TemporaryDirectory(prefix="flowertune-bench-") as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(saved.to_yaml(asdict(config)), encoding="utf-8")
        imports = [sys.executable, "-c", f"{IMPORTS}; print({FIRST_STEP!r}, flush=True)"]
        steps = [sys.executable, "-c", CHILD, name]
        pairs = [
            [timing.seconds_to_line(argv, FIRST_STEP, folder / "log") for argv in (imports, steps)]
            for _ in range(CALLS)
        ]
    import_seconds, start_up_seconds = zip(*pairs, strict=True)
    return Timing(import_seconds, None), Timing(start_up_seconds, None)


def _time_cache_building(config: Config, training: BenchTraining) -> Timing:
    train = training.setup.cached.splits["train"].split
    timed = Split(train.paths[:MAX_IMAGES], train.labels[:MAX_IMAGES])

    def build_cache() -> float:
        with tempfile.TemporaryDirectory(prefix="flowertune-bench-") as folder:
            start = time.perf_counter()
            open_or_build(
                {"train": timed},
                training.setup.backbone.preprocessing,
                train_form=["train"] if reads_train_pixels(config.augmentation) else [],
                folder=Path(folder),
                progress=lambda description, done, total: None,
            )
            return time.perf_counter() - start

    return Timing(tuple(build_cache() for _ in range(CALLS)), len(timed))


def _entry(result: Timing, description: str) -> dict[str, Any]:
    return {**result.to_dict(), "holds": description}
