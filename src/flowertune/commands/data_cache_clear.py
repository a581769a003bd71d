"""`flowertune data cache clear`: remove cache entries."""

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


def execute(arguments: Sequence[str]) -> int:
    """Remove the old entries, after asking; return 1 if any could not be removed.

    Raises:
        UsageError: wrong arguments, an unreadable cache, or nobody there to ask.
    """
    args = _parse(arguments)
    console, root = ConsoleReporter(), cache_root()
    cutoff = math.inf if args.older_than is None else time.time() - args.older_than * DAY
    try:
        entries = [entry for entry in list_entries(root) if entry.last_used < cutoff]
    except OSError as error:
        raise UsageError(f"cannot read the cache in {root}: {error.strerror or error}") from error
    if not entries:
        console.say(f"nothing to remove in {printable(str(root))}")
        return EXIT_DONE
    if not args.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                f"would remove {report.total(entries)}; there is nobody to ask, add --yes"
            )
        report.show(console, entries, root)
        if not _confirm():
            console.say("nothing was removed")
            return EXIT_DONE
    removed = []
    for entry in entries:
        reason = delete(entry)
        if reason is None:
            removed.append(entry)
        else:
            console.say(f"left: {entry.kind}, {printable(entry.description)}: {reason}")
    console.say(f"removed: {report.total(removed)}")
    return EXIT_DONE if len(removed) == len(entries) else EXIT_FAILED


def _confirm() -> bool:
    try:
        return input("Remove all of these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser()
    parser.add_argument("--older-than", type=_days, metavar="DAYS")
    parser.add_argument("--yes", action="store_true")
    return parser.parse_args(arguments)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of days, 0 or more")
    return days
