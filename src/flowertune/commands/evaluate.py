"""`flowertune evaluate`: evaluate a trained run on labeled images."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flowertune import files
from flowertune.commands import compose
from flowertune.config.fields import format_value
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import bad_file_lines
from flowertune.data.cache_dir import cache_root
from flowertune.data.device_pixels import DevicePixels, are_resident
from flowertune.errors import EXIT_DONE, FlowertuneError, UsageError, printable
from flowertune.inference import evaluate, predictor
from flowertune.inference.logits import infer
from flowertune.report.console import evaluation as report
from flowertune.report.console.run import ConsoleReporter, error_console
from flowertune.runs.directory import to_csv
from flowertune.runs.finished import read_finished_run
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic

SETTABLE = ("data", "trainer.device", "trainer.precision", "trainer.eval_batch_size")


def execute(args: Namespace) -> int:
    """Evaluate the run on its own or on other images and print the metrics."""
    selected, overrides = _take_split(args.overrides)
    output = args.output
    if output is not None and output.is_dir():
        raise UsageError(f"--output {output}: is a folder; give a file name")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: {output.absolute().parent} does not exist")
    console, cache = error_console() if args.as_json else ConsoleReporter(), cache_root()
    run = read_finished_run(args.run, args.backbone_path)
    config, other_data = _compose(run.path, overrides)
    run_results, hashes = run.results, {image.sha256 for image in run.images["train"]}
    compute = predictor.compute_for(config)
    make_deterministic(config.trainer.deterministic, compute.device)
    memory.keep_freed()
    metrics, rows = {}, []
    with memory.explain_oom(memory.oom_message("evaluate", config.trainer, compute.device_name)):
        with console.progress():
            dataset = evaluate.list_images_to_evaluate(
                config, selected, other_data, cache, console.advance
            )
            model = predictor.load_model(run, compute)
            cached = evaluate.decode_images(
                dataset, model.preprocessing, config.data.bad_files, cache, console.advance
            )
        for line in bad_file_lines(dataset, cached.bad):
            console.warn(f"skipped: {line}")
        for note in dataset.notes:
            console.say(note)
        for split, images in cached.splits.items():
            resident = are_resident("auto", images.eval_pixels.array.nbytes, compute.device)
            pixels = DevicePixels(images.eval_pixels, compute.device, resident=resident)
            with console.progress():
                advance = partial(console.advance, f"evaluating {split}")
                outputs = infer(
                    model.classifier, pixels, model.preprocessing, config.trainer.eval_batch_size,
                    compute, advance,
                )  # fmt: skip
            metrics[split], (header, predictions) = evaluate.evaluate(
                outputs.logits, cached, split, model.class_names, hashes
            )
            rows += predictions

    results = {
        "run": str(run.path),
        **{name: run_results[name] for name in ("method", "backbone", "tag", "weights_sha256")},
        "data_fingerprint": cached.fingerprint,
        "protocol": cached.dataset.protocol,
        "device": compute.device_name,
        "precision": compute.precision,
        "splits": metrics,
    }
    if args.as_json:
        print(json.dumps(results, indent=2, allow_nan=False))
    else:
        report.show(console, results)
    if args.output is not None:  # last, so that a failure does not lose the metrics
        try:
            files.write_text(args.output, to_csv(header, rows))
        except OSError as error:
            reason = f"--output {args.output}: cannot be written ({error.strerror})"
            raise FlowertuneError(reason) from error
        console.say(str(args.output))
    return EXIT_DONE


def _take_split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Separate split=... from the config overrides."""
    splits = [item for item in words if item.partition("=")[0] == "split"]
    for item in splits:
        if item.removeprefix("split=") not in evaluate.SPLITS:
            raise UsageError(f"{printable(item)}: must be one of {', '.join(evaluate.SPLITS)}")
    selected = splits[-1].removeprefix("split=") if splits else None
    return selected, [item for item in words if item not in splits]


def _compose(run: Path, overrides: Sequence[str]) -> tuple[Config, bool]:
    """Compose the config; also returns whether it selects other images than the run's own."""
    for item in overrides:
        key = item.partition("=")[0]
        if key == item and Path(item).is_dir():
            raise UsageError(f"{printable(item)}: expected data=folder data.root={printable(item)}")
        if not (key in SETTABLE or key.startswith("data.")):
            allowed = f"split, data.KEY, {', '.join(SETTABLE)}"
            raise UsageError(
                f"{format_value(item)}: cannot be changed for a trained model; allowed: {allowed}"
            )
    of_run = ["--config-path", str(run.absolute())]
    if not any(item.startswith("data=") for item in overrides):
        has_other_root = any(item.startswith("data.root=") for item in overrides)
        return _compose_job([*of_run, *overrides]), has_other_root
    # a run's config has no groups, so compose data=... with flowertune's own config
    data = [item for item in overrides if item.startswith(("data=", "data."))]
    other = _compose_job(["baselines=false", *data])
    config = _compose_job([*of_run, *(item for item in overrides if item not in data)])
    return replace(config, data=other.data), True


def _compose_job(words: Sequence[str]) -> Config:
    configs: list[Config] = []

    def keep(config: Config) -> int:
        configs.append(config)
        return EXIT_DONE

    compose.run(words, keep, "job")
    return configs[0]
