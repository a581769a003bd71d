"""`flowertune bench`: time the pieces of a training on this machine."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowertune.benchmark import timing
from flowertune.benchmark.setup import prepare
from flowertune.benchmark.timing import Timing, timeit
from flowertune.config import saved
from flowertune.config.augmentation import reads_train_pixels
from flowertune.config.schema import Config
from flowertune.data.cache.store import open_or_build
from flowertune.data.dataset import Split
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.image import Preprocessing
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
    training.state.step.classifier.train()
    with closing(training.steps()) as steps:
        training.run_step(next(steps))
    timing.synchronize(training.setup.compute.device)
    training.check()
    print(FIRST_STEP, flush=True)
    return EXIT_DONE


def _measure(config: Config, console: ConsoleReporter) -> dict[str, Any]:
    training = prepare(config, console)
    setup, classifier = training.setup, training.state.step.classifier
    compute, backbone, splits = setup.compute, setup.backbone, setup.cached.splits
    device, resident = compute.device, training.state.loader.pixels.resident

    console.say(f"timing the start of {CALLS} processes")
    imports, start_up = _time_start_up(config)

    # training: on one step's batches that lie ready, then as the loop has it
    console.say("timing training steps")
    classifier.train()
    with closing(training.steps()) as steps:
        ready = list(next(steps))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    bare_step = partial(training.run_step, ready)
    operations = timing.count_operations(bare_step)  # before the step is recorded, if it is
    with closing(training.steps()) as steps:
        bare, with_data = _time_steps(
            [bare_step, lambda: training.run_step(next(steps))], device, training.step_size,
            streamed=not resident,
        )  # fmt: skip
    training.check()
    peak_memory = timing.peak_memory(device)

    console.say("timing validation")
    split = splits.get("val", splits["train"])
    pixels = DevicePixels(split.eval_pixels[:MAX_IMAGES], device, resident=resident)
    labels = torch.tensor(split.split.labels[:MAX_IMAGES])

    def validate() -> None:
        batch_size = config.trainer.eval_batch_size
        outputs = infer(classifier, pixels, backbone.preprocessing, batch_size, compute)
        measure(outputs.logits, labels)

    (validation,) = timeit([validate], device, len(labels))
    console.say("timing cache building")
    cache = _time_cache_building(config, splits["train"].split, backbone.preprocessing)
    console.say("timing a large matrix product")
    matrix_rate = timing.matrix_rate(compute)

    operation_rate = operations / bare.median
    streaming = "" if resident else ", pixels streamed from the host"
    timings = {
        "train_step": (
            bare, "forward, loss, backward, guard, step, on batches that lie ready on the device",
        ),
        "train_step_with_data": (
            with_data, f"the same, and batches gathered, augmented and mixed{streaming}",
        ),
        "validation": (
            validation, "pixels gathered, forward, metrics, in eval mode with LoRA merged",
        ),
        "cache": (
            cache, "photos read, decoded and written to a new temporary folder, on all cores",
        ),
        "imports": (imports, f'a new process: python -c "{IMPORTS}", in turn with the next'),
        "start_up": (
            start_up, "a new process: imports, config, weights, photos found in the cache, model "
            "and one step; no baselines",
        ),
    }  # fmt: skip
    return {
        "method": config.method,
        **{group: getattr(config, group).name for group in GROUPS},
        "backbone": backbone.name,
        "tag": backbone.tag,
        "trainable_parameters": classifier.trainable_parameters,
        "batch_size": len(ready[0][0]),
        "accumulation": len(ready),
        "device": compute.device_name,
        "precision": compute.precision,
        "threads": compute.threads,
        "torch": torch.__version__,
        **{name: {**timed.to_dict(), "holds": holds} for name, (timed, holds) in timings.items()},
        "peak_memory": peak_memory,
        "arithmetic": {
            "operations": operations,
            "per_second": operation_rate,
            "matrix_product_per_second": matrix_rate,
            "share_of_matrix_product": operation_rate / matrix_rate,
        },
    }


def _time_steps(
    steps: Sequence[Callable[[], None]], device: torch.device, n_images: int, *, streamed: bool
) -> list[Timing]:
    """Time the bare step and the one with its data, alternating if the images are resident.

    Streamed ones would be read ahead during the other step, for which nobody counts the time: the
    slower the reading, the more of it would be lost. So those steps come one after the other.
    """
    in_turn = [[step] for step in steps] if streamed else [steps]
    return [timed for group in in_turn for timed in timeit(group, device, n_images)]


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


def _time_cache_building(config: Config, train: Split, preprocessing: Preprocessing) -> Timing:
    timed = Split(train.paths[:MAX_IMAGES], train.labels[:MAX_IMAGES])
    seconds = []
    for _ in range(CALLS):
        with tempfile.TemporaryDirectory(prefix="flowertune-bench-") as folder:
            start = time.perf_counter()
            open_or_build(
                {"train": timed},
                preprocessing,
                train_form=["train"] if reads_train_pixels(config.augmentation) else [],
                folder=Path(folder),
                progress=lambda description, done, total: None,
            )
            seconds.append(time.perf_counter() - start)
    return Timing(tuple(seconds), len(timed))
