"""Arguments of the commands: declared once, for parser, help and completion."""

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from flowertune.errors import UsageError


class ArgumentParser(argparse.ArgumentParser):
    """Parser that raises UsageError instead of exiting."""

    def error(self, message: str) -> NoReturn:
        _, _, words = message.partition("unrecognized arguments: ")
        near = get_close_matches(words.split(" ")[0], self._option_string_actions) if words else []
        raise UsageError(message + (f"; did you mean {near[0]}?" if near else ""))


class Argument:
    """An argument of a command: `typed` as in "--top-k K" or "run RUN", and argparse's settings."""

    def __init__(
        self,
        typed: str,
        meaning: str = "",
        parse: Callable[[str], Any] | None = None,
        **settings: Any,
    ) -> None:
        self.name, _, metavar = typed.partition(" ")
        self.meaning, self.settings = meaning, settings
        if metavar:
            settings["metavar"] = metavar
        if parse:
            settings["type"] = parse
        self.is_flag = typed.startswith("-")
        more = " ..." if settings.get("nargs") == "+" else ""
        self.usage = typed if self.is_flag else f"{metavar}{more}"


def make_parser(arguments: Iterable[Argument]) -> ArgumentParser:
    """Create the parser of a command, without abbreviations."""
    parser = ArgumentParser(usage="", add_help=False, allow_abbrev=False)
    for each in arguments:
        parser.add_argument(each.name, **each.settings)
    return parser


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Create an argparse type for whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            upper = " or more" if most == math.inf else f" to {most}"
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number, {least}{upper}")
        return int(text)

    return parse


def days(text: str) -> float:
    """Parse a number of days."""
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}: must be a number of days, 0 or more")


def address(text: str) -> str:
    """Parse the address of a host, but not an empty one, which would listen on all addresses."""
    if not text:
        raise argparse.ArgumentTypeError("must be an address of this machine; 0.0.0.0 means all")
    return text


def choice(typed: str, words: str, more: str = "", **settings: Any) -> Argument:
    """Declare an argument that takes one of `words`."""
    choices = words.split()
    default = settings.get("default")
    *first, last = [f"{each} (default)" if each == default else each for each in choices]
    return Argument(typed, f"{', '.join(first)} or {last}{more}", choices=choices, **settings)


def as_json(what: str) -> Argument:
    """Declare --json, which prints `what`."""
    meaning = f"print the {what} as JSON; all other output goes to stderr"
    return Argument("--json", meaning, dest="as_json", action="store_true")


RUN = Argument("run RUN", parse=Path)
DEVICE = choice("--device DEVICE", "auto cpu cuda mps", " (default: the run's setting)")
BACKBONE_PATH = Argument("--backbone-path DIR", "where the run's backbone is now, if moved", Path)
PRECISION = choice("--precision P", "auto fp32 bf16 fp16", " (default: the run's setting)")
