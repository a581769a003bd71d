"""`flowertune data cache`: list or remove the cache entries."""

import math
import sys
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from flowertune.data.cache.listing import CacheEntry, delete, list_entries
from flowertune.data.cache_dir import cache_root
from flowertune.errors import EXIT_DONE, EXIT_FAILED, UsageError, printable
from flowertune.report.console import cache as report
from flowertune.report.console.cache import DAY
from flowertune.report.console.run import ConsoleReporter


def show(args: Namespace) -> int:
    """Print all entries, longest unused first."""
    root = cache_root()
    report.show(ConsoleReporter(), _list(root), root)
    return EXIT_DONE


def clear(args: Namespace) -> int:
    """Remove the old entries, after asking; return 1 if any could not be removed."""
    console, root = ConsoleReporter(), cache_root()
    cutoff = math.inf if args.older_than is None else time.time() - args.older_than * DAY
    entries = [entry for entry in _list(root) if entry.last_used < cutoff]
    if not entries:
        console.say(f"nothing to remove in {printable(str(root))}")
        return EXIT_DONE
    if not args.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                f"would remove {report.total(entries)}; there is nobody to ask, add --yes"
            )
        report.show(console, entries, root)
        answer = ""
        with suppress(EOFError):
            answer = input("Remove all of these? [y/N] ").strip().lower()
        if answer not in ("y", "yes"):
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


def _list(root: Path) -> list[CacheEntry]:
    try:
        return list_entries(root)
    except OSError as error:
        raise UsageError(f"cannot read the cache in {root}: {error.strerror or error}") from error
