"""`flowertune predict`: what photos are taken for by a finished run. Reads from top to bottom."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import chain, islice
from pathlib import Path

from flowertune.commands.arguments import ArgumentParser, add_compute, whole_number
from flowertune.data.cache.decode import quiet_pil
from flowertune.data.sources.folder import photos_below
from flowertune.errors import EXIT_DONE, EXIT_FAILED, UsageError, printable
from flowertune.inference import predictor
from flowertune.inference.logits import top_classes_header
from flowertune.report.console.predictions import FORMATS, PredictionLines
from flowertune.report.console.run import error_console
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic
from flowertune.runtime.streams import is_writable
from flowertune.signals import install_handlers

STDIN = "-"
READ_AT_ONCE = 2**16  # bytes of stdin


def execute(words: Sequence[str]) -> int:
    """Prints the likeliest classes of each photo; returns 1 where one of them gave no picture.

    Raises:
        UsageError: words that are not understood, no finished run, a photo that is not there, or
            weights that are gone.
        FlowertuneError: out of memory.
    """
    asked = _parse(words)
    run, config = predictor.read_run(asked.run)
    missing = [name for name in asked.photos if name != STDIN and not os.path.lexists(name)]
    if missing:
        raise UsageError(f"{printable(missing[0])}: there is no such photo or folder")
    if STDIN in asked.photos and sys.stdin is None:
        raise UsageError("-: stdin is closed, and names were to come from there")
    compute = predictor.compute_for(config, asked.device, asked.precision)

    console = error_console()
    watched = console.console.is_terminal and not sys.stdout.isatty()
    done = left_out = 0

    def leave_out(path: object, reason: str) -> None:
        nonlocal left_out
        left_out += 1
        console.say(f"left out: {printable(str(path))}: {reason}")

    photos = _photos(asked.photos, asked.null, leave_out)
    if STDIN not in asked.photos:  # names that are still to come may rightly be none
        first = list(islice(photos, 1))
        if not first and not left_out:
            raise UsageError(f"{printable(asked.photos[0])}: there are no files in it")
        photos = chain(first, photos)

    make_deterministic(config.trainer.deterministic, compute.device)
    memory.keep_freed()
    out_of_memory = (
        f"out of memory on {compute.device_name}: take another --device, or free some of it"
    )
    with memory.explain_oom(out_of_memory):
        model = predictor.load_model(run, config, compute)
    k = min(asked.top_k, len(model.class_names))
    lines = PredictionLines(asked.format, model.class_names, k, top_classes_header(k))
    answers = model.stream(photos, top_k=k)
    with (
        memory.explain_oom(out_of_memory),
        install_handlers() as stop,
        console.progress() if watched else nullcontext(),
        quiet_pil(),
        closing(answers),
    ):
        header = lines.header()
        if header is not None:
            print(header, flush=True)
        for answer in answers:
            if isinstance(answer, predictor.UnreadableImage):
                leave_out(answer.photo, answer.reason)
                continue
            line = lines.line(Path(str(answer.photo)), answer.classes, answer.probabilities)
            with stop.deferred():  # a line is printed once, and whole
                print(line, flush=True)
            done += 1
            stop.check()
            if not is_writable(sys.stdout):  # `| head` has seen enough
                break
            if watched:
                console.advance("photos", done, None)
    if left_out:
        console.say(f"{left_out:,} of {done + left_out:,} files gave no picture")
    return EXIT_FAILED if left_out else EXIT_DONE


def _photos(
    names: Sequence[str], null: bool, unlisted: Callable[[Path, str], None]
) -> Iterator[Path]:
    """Photos as they were named, those below folders, and those that stdin names."""
    for name in names:
        if name == STDIN:
            yield from _named_in(sys.stdin.fileno(), b"\0" if null else b"\n")
        elif os.path.isdir(name):
            yield from photos_below(Path(name), unlisted)
        else:
            yield Path(name)


def _named_in(descriptor: int, end: bytes) -> Iterator[Path]:
    """The names that are written there, each as it comes; empty ones are none."""
    rest = b""
    while chunk := os.read(descriptor, READ_AT_ONCE):
        if end != b"\0" and b"\0" in chunk:
            raise UsageError("-: names on stdin that end with NUL (find -print0) go with --null")
        *names, rest = (rest + chunk).split(end)
        yield from (Path(os.fsdecode(name)) for name in names if name)
    if rest:
        yield Path(os.fsdecode(rest))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser()
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("photos", nargs="+", metavar="PHOTO")
    parser.add_argument("--top-k", type=whole_number(1), default=predictor.TOP_K, metavar="K")
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument("--null", action="store_true")
    add_compute(parser)
    return parser.parse_intermixed_args(words)
