"""Argument parsing of commands that compose no config."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from flowertune.errors import UsageError


class ArgumentParser(argparse.ArgumentParser):
    """Parser without abbreviations that raises UsageError instead of exiting."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Create an argparse type for whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            upper = " or more" if most is None else f" to {most}"
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number, {least}{upper}")
        return int(text)

    return parse


def add_compute(parser: ArgumentParser) -> None:
    """Add --device and --precision, which override what the run was set to."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
