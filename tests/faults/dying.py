"""flowertune in a process that ends itself with kill -9: python dying.py KIND N WORD...

It dies at the Nth moment of a kind: after a `step`; when a file or folder is to be `flush`ed to the
disk, with its content half-way there; before something gets its name (`rename`); in the middle of a
`validation`, of `decoding` photos, of computing frozen `features`.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowertune import cli, inference
from flowertune.report.console import RunConsole
from flowertune.training.step import Step

KIND, AT, WORDS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
seen = 0


def moment(kind: str) -> None:
    global seen
    if kind == KIND:
        seen += 1
        if seen == AT:
            os.kill(os.getpid(), signal.SIGKILL)


def before(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*arguments: Any, **named: Any) -> Any:
        moment(kind)
        return function(*arguments, **named)

    return dying


def after(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        moment(kind)
        return result

    return dying


def advance(self: RunConsole, description: str, done: int, total: "int | None") -> None:
    for kind in ("decoding", "features"):
        if kind in description:
            moment(kind)
    shown(self, description, done, total)


shown = RunConsole.advance
RunConsole.advance = advance  # type: ignore[method-assign]
Step.take = after("step", Step.take)  # type: ignore[method-assign]
inference.normalise = before("validation", inference.normalise)  # a batch of pixels is inferred
os.fsync = before("flush", os.fsync)
os.replace = before("rename", os.replace)
Path.rename = before("rename", Path.rename)  # type: ignore[method-assign]
sys.exit(cli.main(WORDS))
