"""`flowertune predict`: classify images with a finished run."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import chain, islice
from pathlib import Path

from flowertune.data.cache.decode import quiet_pil
from flowertune.data.sources.folder import walk_files
from flowertune.errors import EXIT_DONE, EXIT_FAILED, UsageError, printable
from flowertune.inference import predictor
from flowertune.inference.logits import top_classes_header
from flowertune.report.console.predictions import PredictionLines
from flowertune.report.console.run import error_console
from flowertune.runs.finished import read_finished_run
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic
from flowertune.signals import install_handlers

STDIN = "-"
READ_AT_ONCE = 2**16  # bytes of stdin


def execute(args: Namespace) -> int:
    """Print the likeliest classes of each image; return 1 if any could not be decoded."""
    run = read_finished_run(args.run)
    missing = [name for name in args.paths if name != STDIN and not os.path.lexists(name)]
    if missing:
        raise UsageError(f"{printable(missing[0])}: there is no such photo or folder")
    if STDIN in args.paths and sys.stdin is None:
        raise UsageError("-: stdin is closed, and names were to come from there")
    compute = predictor.compute_for(run.config, args.device, args.precision)

    console = error_console()
    show_progress = console.console.is_terminal and not sys.stdout.isatty()
    done = skipped = 0

    def skip(path: object, reason: str) -> None:
        nonlocal skipped
        skipped += 1
        console.say(f"left out: {printable(str(path))}: {reason}")

    paths = _iterate_paths(args.paths, args.null, skip)
    if STDIN not in args.paths:  # names that are still to come may rightly be none
        first = list(islice(paths, 1))
        if not first and not skipped:
            raise UsageError(f"{printable(args.paths[0])}: there are no files in it")
        paths = chain(first, paths)

    make_deterministic(run.config.trainer.deterministic, compute.device)
    memory.keep_freed()
    with memory.explain_oom(memory.oom_message("predict", run.config.trainer, compute.device_name)):
        model = predictor.load_model(run, compute)
        k = min(args.top_k, len(model.class_names))
        lines = PredictionLines(args.format, model.class_names, k, top_classes_header(k))
        predictions = model.stream(paths, top_k=k)
        with (
            install_handlers() as stop,
            console.progress() if show_progress else nullcontext(),
            quiet_pil(),
            closing(predictions),
        ):
            header = lines.header()
            if header is not None:
                print(header, flush=True)
            for result in predictions:
                if isinstance(result, predictor.UnreadableImage):
                    skip(result.image, result.reason)
                    continue
                line = lines.line(Path(str(result.image)), result.classes, result.probabilities)
                with stop.deferred():  # a line is printed once, and whole
                    print(line, flush=True)
                done += 1
                stop.check()
                if show_progress:
                    console.advance("photos", done, None)
    if skipped:
        console.say(f"{skipped:,} of {done + skipped:,} files gave no picture")
    return EXIT_FAILED if skipped else EXIT_DONE


def _iterate_paths(
    names: Sequence[str], null: bool, on_unlisted: Callable[[Path, str], None]
) -> Iterator[Path]:
    """Yield image paths as named, those below folders, and those listed on stdin."""
    for name in names:
        if name == STDIN:
            yield from _read_names(sys.stdin.fileno(), b"\0" if null else b"\n")
        elif os.path.isdir(name):
            yield from walk_files(Path(name), on_unlisted)
        else:
            yield Path(name)


def _read_names(descriptor: int, separator: bytes) -> Iterator[Path]:
    """Yield each name read from the descriptor as it arrives, skipping empty ones."""
    rest = b""
    while chunk := os.read(descriptor, READ_AT_ONCE):
        if separator != b"\0" and b"\0" in chunk:
            raise UsageError("-: names on stdin that end with NUL (find -print0) go with --null")
        *names, rest = (rest + chunk).split(separator)
        yield from (Path(os.fsdecode(name)) for name in names if name)
    if rest:
        yield Path(os.fsdecode(rest))
