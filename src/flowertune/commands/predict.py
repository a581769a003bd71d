"""`flowertune predict`: classify images with a trained run."""

import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import chain, islice
from pathlib import Path

from flowertune.data.cache.decode import quiet_pil
from flowertune.data.sources.walk import may_be_image, other_files_note, walk_files
from flowertune.errors import EXIT_DONE, EXIT_FAILED, UsageError, printable
from flowertune.inference import predictor
from flowertune.inference.logits import top_classes_header
from flowertune.report.console.predictions import PredictionLines
from flowertune.report.console.run import error_console
from flowertune.runs.finished import is_run, read_finished_run
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic
from flowertune.signals import install_handlers

STDIN = "-"
READ_AT_ONCE = 2**16  # bytes read from stdin at once


def execute(args: Namespace) -> int:
    """Print the most likely classes of each image; returns 1 if any image is unreadable."""
    given, names_run = printable(args.run), is_run(args.run)
    if not args.paths:
        hint = f"IMAGE is missing: predict {given} IMAGE"
        raise UsageError(hint if names_run else f"RUN is missing: predict RUN {given}")
    if not names_run and is_run(Path(args.paths[-1])):
        raise UsageError(f"the run comes first: predict {printable(args.paths[-1])} {given}")
    run = read_finished_run(args.run, args.backbone_path)
    missing = [name for name in args.paths if name != STDIN and not os.path.lexists(name)]
    if missing:
        raise UsageError(f"{printable(missing[0])}: no such file or directory")
    if STDIN in args.paths and sys.stdin is None:
        raise UsageError("-: cannot read names from stdin, which is closed")
    compute = predictor.compute_for(run.config, args.device, args.precision)

    console = error_console()
    show_progress = console.console.is_terminal and not sys.stdout.isatty()
    done = skipped = 0

    def skip(path: object, reason: str) -> None:
        nonlocal skipped
        skipped += 1
        console.say(f"skipped: {printable(str(path))}: {reason}")

    others: Counter[str] = Counter()  # endings of files in folders that are no images
    paths = _iterate_paths(args.paths, args.null, skip, others)
    if STDIN not in args.paths:  # an empty stdin is not an error
        first = list(islice(paths, 1))
        if not first and not skipped:
            raise UsageError(f"{printable(args.paths[0])}: contains no files")
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
            if args.format == "csv":
                print(header, flush=True)
                header = None
            for result in predictions:
                if isinstance(result, predictor.UnreadableImage):
                    skip(result.image, result.reason)
                    continue
                line = lines.line(Path(str(result.image)), result.classes, result.probabilities)
                with stop.deferred():  # print whole lines only
                    if header is not None:
                        print(header)
                        header = None
                    print(line, flush=True)
                done += 1
                stop.check()
                if show_progress:
                    console.advance("images", done, None)
    if others:
        console.say(other_files_note(others))
    if skipped:
        console.say(f"{skipped:,} of {done + skipped:,} files skipped")
    return EXIT_FAILED if skipped else EXIT_DONE


def _iterate_paths(
    names: Sequence[str],
    null: bool,
    on_unlisted: Callable[[Path, str], None],
    others: Counter[str],
) -> Iterator[Path]:
    """Yield the given paths, the images below folders, and the paths listed on stdin.

    Counts other files below folders in `others`.
    """
    for name in names:
        if name == STDIN:
            yield from _read_names(sys.stdin.fileno(), b"\0" if null else b"\n")
        elif os.path.isdir(name):
            for path in walk_files(Path(name), on_unlisted):
                if may_be_image(path):
                    yield path
                else:
                    others[path.suffix.lower()] += 1
        else:
            yield Path(name)


def _read_names(descriptor: int, separator: bytes) -> Iterator[Path]:
    """Yield each name as it arrives, skipping empty ones."""
    rest = b""
    while chunk := os.read(descriptor, READ_AT_ONCE):
        if separator != b"\0" and b"\0" in chunk:
            raise UsageError("-: names on stdin end with NUL (find -print0); add --null")
        *names, rest = (rest + chunk).split(separator)
        yield from (_named(name) for name in names if name)
    if rest:
        yield _named(rest)


def _named(name: bytes) -> Path:
    """Return the file; a list written on Windows has CR before each line end."""
    path = os.fsdecode(name)
    return Path(path if os.path.lexists(path) else path.removesuffix("\r"))
