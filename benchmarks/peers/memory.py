"""Peak memory of this process during a task, without pages that the kernel may drop.

Read from inside the process, so that a peak belongs to the task and not to the whole process.
"""

import threading
from pathlib import Path

STATUS = Path("/proc/self/status")  # only on Linux
# RssAnon: written by the process, stays in memory or swap. RssFile and RssShmem: mapped pages of
# files, on a disk and in a tmpfs.
KINDS = {"private_bytes": ("RssAnon",), "mapped_bytes": ("RssFile", "RssShmem")}
LOOK_EVERY = 0.02  # seconds; one reading takes about 50 microseconds, for any number of pages


class MemoryWatch:
    """Thread that reads the memory until `peaks` is called; zeros on systems other than Linux.

    It misses memory that is allocated and freed between two readings.
    """

    def __init__(self) -> None:
        self._most = dict.fromkeys(KINDS, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch", daemon=True)
        self._thread.start()

    def peaks(self) -> dict[str, int]:
        """Stop the thread and return the peak bytes of each kind, each at its own moment."""
        self._ended.set()
        self._thread.join()
        self._look()  # the thread may not have run for long
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
    """Current bytes of each kind of memory, on Linux."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return {
        kind: 1024 * sum(int(fields[name].split()[0]) for name in names)
        for kind, names in KINDS.items()
    }
