"""`flowertune data cache list`: what is kept between runs."""

from collections.abc import Sequence

from flowertune.data.cache.listing import list_entries
from flowertune.data.cache_dir import cache_root
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.report.console import cache as report
from flowertune.report.console.run import ConsoleReporter


def execute(words: Sequence[str]) -> int:
    """Prints what there is, longest unused first. Raises UsageError.

    Words, or an unreadable cache.
    """
    if words:
        raise UsageError(f"{words[0]!r} is not understood: this command takes no words")
    root = cache_root()
    try:
        kept = list_entries(root)
    except OSError as error:
        raise UsageError(f"cannot read the cache in {root}: {error.strerror or error}") from error
    report.show(ConsoleReporter(), kept, root)
    return EXIT_DONE
