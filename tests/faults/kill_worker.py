"""Run flowertune and send a signal to itself: python kill_worker.py SIGNAL KIND N WORD...

It comes at the Nth moment of a kind: after a `step`; when a file or folder is to be `flush`ed to
the disk, with its content half-way there; before something gets its name (`rename`); in the middle
of a `validation`, of `decoding` photos, of computing frozen `features`. "never" is no such moment.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowertune import cli
from flowertune.inference import logits
from flowertune.report.console.run import ConsoleReporter
from flowertune.training.step import TrainStep

SIGNAL, KIND, AT, WORDS = signal.Signals[sys.argv[1]], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
seen = 0


def moment(kind: str) -> None:
    global seen
    if kind == KIND:
        seen += 1
        if seen == AT:
            os.kill(os.getpid(), SIGNAL)


def before(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*arguments: Any, **named: Any) -> Any:
        moment(kind)
        return function(*arguments, **named)

    return dying


def run(*arguments: Any) -> Any:
    result = taken(*arguments)
    moment("step")
    return result


def advance(self: ConsoleReporter, description: str, done: int, total: "int | None") -> None:
    for kind in ("decoding", "features"):
        if kind in description:
            moment(kind)
    shown(self, description, done, total)


shown, taken = ConsoleReporter.advance, TrainStep.run
ConsoleReporter.advance, TrainStep.run = advance, run  # type: ignore[method-assign]
logits.normalize = before("validation", logits.normalize)  # a batch of pixels is inferred
os.fsync = before("flush", os.fsync)
os.replace = before("rename", os.replace)
Path.rename = before("rename", Path.rename)  # type: ignore[method-assign]
sys.exit(cli.main(WORDS))
