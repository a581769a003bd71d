"""The words of commands that compose no config."""

import argparse
from typing import NoReturn

from flowertune.errors import Refused


class WordParser(argparse.ArgumentParser):
    """argparse's, with whole words alone; raises Refused for what it does not understand."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def at_least_one(text: str) -> int:
    """A whole number, 1 or more, of a word."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 1 or more")
    return int(text)
