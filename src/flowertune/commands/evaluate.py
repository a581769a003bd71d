"""`flowertune evaluate`: a finished run on any photos with classes. Reads from top to bottom."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flowertune import files
from flowertune.commands.arguments import ArgumentParser
from flowertune.commands.compose import run as run_composed
from flowertune.config.fields import format_value
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import bad_file_lines
from flowertune.data.cache_dir import cache_root
from flowertune.data.device_pixels import DevicePixels, are_resident
from flowertune.errors import EXIT_DONE, FlowertuneError, UsageError, printable
from flowertune.inference import evaluate, predictor
from flowertune.report.console import evaluation as report
from flowertune.report.console.run import ConsoleReporter, error_console
from flowertune.runs.directory import to_csv
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic


def execute(words: Sequence[str]) -> int:
    """Prints how well the run does on the photos that the words name, by default its own.

    Raises:
        UsageError: words that are not understood, no finished run, weights that are gone, no
            photos,
            bad ones, or none of a class that the run knows.
        FlowertuneError: out of memory, or a file that cannot be written.
    """
    asked = _parse(words)
    console, cache = error_console() if asked.json else ConsoleReporter(), cache_root()
    run, _ = predictor.read_run(asked.run)
    config, are_others = compose(run.path, asked.words)
    trained_on, own = evaluate.training_hashes(run), run.results()
    compute = predictor.compute_for(config, None, None)
    make_deterministic(config.trainer.deterministic, compute.device)
    memory.keep_freed()
    out_of_memory = (
        f"out of memory on {compute.device_name}: lower "
        f"trainer.eval_batch_size={config.trainer.eval_batch_size}, or take another trainer.device"
    )
    with memory.explain_oom(out_of_memory), console.progress():
        dataset = evaluate.list_images_to_evaluate(
            config, asked.split, are_others, cache, console.advance
        )
        model = predictor.load_model(run, config, compute)
        photos = evaluate.decode_images(
            dataset, model.preprocessing, config.data.bad_files, cache, console.advance
        )
    for line in bad_file_lines(dataset, photos.bad):
        console.warn(f"left out: {line}")

    measured = {}
    for split, each in photos.splits.items():
        resident = are_resident("auto", each.eval_pixels.nbytes, compute.device)
        with memory.explain_oom(out_of_memory), console.progress():
            pixels = DevicePixels(each.eval_pixels, compute.device, resident=resident)
            logits = model.logits(pixels, partial(console.advance, f"evaluating {split}"))
        measured[split] = evaluate.evaluate(logits, photos, split, model.class_names, trained_on)

    results = {
        "run": str(run.path),
        **{name: own[name] for name in ("method", "backbone", "tag", "weights_sha256")},
        "data_fingerprint": photos.fingerprint,
        "protocol": photos.dataset.protocol,
        "device": compute.device_name,
        "precision": compute.precision,
        "splits": {split: each.to_dict() for split, each in measured.items()},
    }
    if asked.json:
        print(json.dumps(results, indent=2, allow_nan=False))
    else:
        report.show(console, results)
    if asked.output is not None:  # after the numbers, which do not depend on it
        first, *_ = measured.values()
        text = to_csv(first.header, [row for each in measured.values() for row in each.rows])
        try:
            files.write_text(asked.output, text)
        except OSError as error:
            why = f"{asked.output}: cannot be written ({error.strerror})"
            raise FlowertuneError(why) from error
        console.say(str(asked.output))
    return EXIT_DONE


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser()
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--output", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_intermixed_args(words)
    asked.split = None
    for word in list(asked.words):
        key, _, value = word.partition("=")
        if key == "split":
            if value not in evaluate.SPLITS:
                raise UsageError(f"{printable(word)}: must be one of {', '.join(evaluate.SPLITS)}")
            asked.split = value
            asked.words.remove(word)
    if asked.output is not None and asked.output.is_dir():
        raise UsageError(f"{asked.output}: is a folder; --output takes a file")
    if asked.output is not None and not asked.output.absolute().parent.is_dir():
        raise UsageError(f"{asked.output}: there is no folder {asked.output.absolute().parent}")
    return asked


# of a trained model nothing else is for choosing
OPEN = ("data", "trainer.device", "trainer.precision", "trainer.eval_batch_size")


def compose(run: Path, words: Sequence[str]) -> tuple[Config, bool]:
    """The config, and whether the photos are others than the run's own.

    Raises:
        UsageError: a word that is not about OPEN, or what `composition.run` refuses.
    """
    keys = [word.partition("=")[0] for word in words]
    for word, key in zip(words, keys, strict=True):
        if not (key in OPEN or key.startswith("data.")):
            takes = f"split, data.*, {', '.join(OPEN)}"
            raise UsageError(
                f"{format_value(word)}: is settled in a trained model; evaluate takes {takes}"
            )
    of_data = [
        word for word, key in zip(words, keys, strict=True) if key.partition(".")[0] == "data"
    ]
    if "data" not in keys:
        return _composed(run, words), "data.root" in keys
    # a run's config has no groups to choose from, so that these are composed with the program's
    data = _composed(None, ["baselines=false", *of_data]).data
    config = _composed(run, [word for word in words if word not in of_data])
    return replace(config, data=data), True


def _composed(run: Path | None, words: Sequence[str]) -> Config:
    found: list[Config] = []

    def keep(config: Config) -> int:
        found.append(config)
        return 0

    where = [] if run is None else ["--config-path", str(run.absolute())]
    run_composed([*where, *words], keep, sweeps=False)
    return found[0]
