"""`flowertune data cache list`: list the cache entries."""

from collections.abc import Sequence

from flowertune.data.cache.listing import list_entries
from flowertune.data.cache_dir import cache_root
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.report.console import cache as report
from flowertune.report.console.run import ConsoleReporter


def execute(arguments: Sequence[str]) -> int:
    """Print all entries, longest unused first.

    Raises UsageError for any argument and for an unreadable cache.
    """
    if arguments:
        raise UsageError(f"{arguments[0]!r} is not understood: this command takes no words")
    root = cache_root()
    try:
        entries = list_entries(root)
    except OSError as error:
        raise UsageError(f"cannot read the cache in {root}: {error.strerror or error}") from error
    report.show(ConsoleReporter(), entries, root)
    return EXIT_DONE
