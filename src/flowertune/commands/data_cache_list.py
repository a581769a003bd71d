"""`flowertune data cache list`: what is kept between runs."""

from collections.abc import Sequence

from flowertune.data.cache.listing import kept_in
from flowertune.data.cache_dir import cache_root
from flowertune.errors import EXIT_DONE, Refused
from flowertune.report.console import cache as report
from flowertune.report.console.run import RunConsole


def execute(words: Sequence[str]) -> int:
    """Prints what there is, longest unused first. Raises Refused: words, or an unreadable cache."""
    if words:
        raise Refused(f"{words[0]!r} is not understood: this command takes no words")
    root = cache_root()
    try:
        kept = kept_in(root)
    except OSError as error:
        raise Refused(f"cannot read the cache in {root}: {error.strerror or error}") from error
    report.show(RunConsole(), kept, root)
    return EXIT_DONE
