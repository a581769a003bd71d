"""`flowertune data cache`: list or delete cache entries."""

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
    """Print all entries, least recently used first."""
    root = cache_root()
    report.show(ConsoleReporter(), _list(root), root)
    return EXIT_DONE


def clear(args: Namespace) -> int:
    """Delete entries after asking; returns 1 if any could not be deleted."""
    console, root = ConsoleReporter(), cache_root()
    cutoff = math.inf if args.older_than is None else time.time() - args.older_than * DAY
    entries = [entry for entry in _list(root) if entry.last_used < cutoff]
    if not entries:
        console.say(f"nothing to delete in {printable(str(root))}")
        return EXIT_DONE
    if not args.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                f"cannot ask (stdin is not a terminal); add --yes to delete {report.total(entries)}"
            )
        report.show(console, entries, root)
        answer = ""
        with suppress(EOFError):
            answer = input("Delete all of these? [y/N] ").strip().lower()
        if answer not in ("y", "yes"):
            console.say("nothing was deleted")
            return EXIT_DONE
    removed = []
    for entry in entries:
        reason = delete(entry)
        if reason is None:
            removed.append(entry)
        else:
            console.say(f"not deleted: {entry.kind}, {printable(entry.description)}: {reason}")
    console.say(f"deleted: {report.total(removed)}")
    return EXIT_DONE if len(removed) == len(entries) else EXIT_FAILED


def _list(root: Path) -> list[CacheEntry]:
    try:
        return list_entries(root)
    except OSError as error:
        raise UsageError(f"cannot read the cache in {root}: {error.strerror or error}") from error
