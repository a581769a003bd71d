"""`flowertune data cache clear`: removes what is kept between runs. Reads from top to bottom."""

import argparse
import math
import sys
import time
from collections.abc import Sequence

from flowertune.commands.arguments import ArgumentParser
from flowertune.data.cache.listing import delete, list_entries
from flowertune.data.cache_dir import cache_root
from flowertune.errors import EXIT_DONE, EXIT_FAILED, UsageError, printable
from flowertune.report.console import cache as report
from flowertune.report.console.cache import DAY
from flowertune.report.console.run import ConsoleReporter


def execute(words: Sequence[str]) -> int:
    """Removes what is old enough, after asking; returns 1 where something had to stay.

    Raises:
        UsageError: words that are not understood, an unreadable cache, or nobody there to ask.
    """
    asked = _parse(words)
    console, root = ConsoleReporter(), cache_root()
    before = math.inf if asked.older_than is None else time.time() - asked.older_than * DAY
    try:
        kept = [each for each in list_entries(root) if each.last_used < before]
    except OSError as error:
        raise UsageError(f"cannot read the cache in {root}: {error.strerror or error}") from error
    if not kept:
        console.say(f"nothing to remove in {printable(str(root))}")
        return EXIT_DONE
    if not asked.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                f"would remove {report.total(kept)}; there is nobody to ask, add --yes"
            )
        report.show(console, kept, root)
        if not _agreed():
            console.say("nothing was removed")
            return EXIT_DONE
    removed = []
    for each in kept:
        reason = delete(each)
        if reason is None:
            removed.append(each)
        else:
            console.say(f"left: {each.kind}, {printable(each.description)}: {reason}")
    console.say(f"removed: {report.total(removed)}")
    return EXIT_DONE if len(removed) == len(kept) else EXIT_FAILED


def _agreed() -> bool:
    try:
        return input("Remove all of these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser()
    parser.add_argument("--older-than", type=_days, metavar="DAYS")
    parser.add_argument("--yes", action="store_true")
    return parser.parse_args(words)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of days, 0 or more")
    return days
