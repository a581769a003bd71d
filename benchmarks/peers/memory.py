"""This process's memory while something runs: what it needs, apart from what the kernel may drop.

Looked at from inside, so that a peak belongs to a piece of the work and not to the whole process.
"""

import threading
from pathlib import Path

STATUS = Path("/proc/self/status")  # Linux alone tells the kinds of memory apart
# RssAnon: what the process wrote itself; it stays, or goes to swap. RssFile and RssShmem: pages of
# files that are mapped, on a disk and in a tmpfs.
KINDS = {"private_bytes": ("RssAnon",), "mapped_bytes": ("RssFile", "RssShmem")}
LOOK_EVERY = 0.02  # seconds; a look takes some 50 microseconds, however many pages are mapped


class MemoryWatch:
    """A thread that looks at the memory until `peaks` is asked for; zeros where it cannot be told.

    What a step takes and gives back between two looks is missed.
    """

    def __init__(self) -> None:
        self._most = dict.fromkeys(KINDS, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch", daemon=True)
        self._thread.start()

    def peaks(self) -> dict[str, int]:
        """Bytes at the peak of each kind of memory, each at its own moment. Ends the watch."""
        self._ended.set()
        self._thread.join()
        self._look()  # the thread may have had no turn for long
        return self._most

    def _watch(self) -> None:
        self._look()
        while not self._ended.wait(LOOK_EVERY):
            self._look()

    def _look(self) -> None:
        if STATUS.exists():
            for kind, found in resident().items():
                self._most[kind] = max(self._most[kind], found)


def resident() -> dict[str, int]:
    """Bytes of each kind of memory now, on Linux."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return {
        kind: 1024 * sum(int(fields[name].split()[0]) for name in names)
        for kind, names in KINDS.items()
    }
