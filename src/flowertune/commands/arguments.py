"""The words of commands that compose no config."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from flowertune.errors import UsageError


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, with whole words alone; raises UsageError for what it does not understand."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """What makes a whole number from `least` to `most` of a word."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            upper = " or more" if most is None else f" to {most}"
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number, {least}{upper}")
        return int(text)

    return number


def add_compute(parser: ArgumentParser) -> None:
    """--device and --precision, where a finished run computes otherwise than it was set to."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
