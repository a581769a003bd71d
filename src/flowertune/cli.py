"""Dispatch the command line. Imports nothing heavy, so that `--help` answers at once."""

import difflib
import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import NoReturn

from flowertune import __version__
from flowertune.commands.arguments import make_parser
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands
from flowertune.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    FlowertuneError,
    UsageError,
)
from flowertune.signals import install_handlers

# How often an idle OpenMP thread looks for work before it sleeps. The library's own choice, some
# hundred thousand times, takes the cores from whatever else runs there: a training step beside one
# other process took 5.1 s, with this 2.0 s, and alone 0.93 s and 0.83 s (two cores, ViT-Tiny).
SPIN_COUNT = "10000"

HELP = {"-h", "--help", "--help-all"}
SYNONYMS = {
    "classify": ["predict"],
    "compare": ["report"],
    "help": ["flowertune --help"],
    "test": ["evaluate"],
}
COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 1 failed, 2 refused, 130 interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is io.TextIOWrapper:
            stream.reconfigure(errors="backslashreplace")  # any class name on any terminal
    try:
        exit_code = _run(sys.argv[1:] if arguments is None else arguments)
        print(end="", flush=True)  # here, where it can be said what of it is lost
    except BrokenPipeError:  # `| head` has seen enough; what is still to be written goes nowhere
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        return EXIT_FAILED
    return exit_code


def _run(argv: Sequence[str]) -> int:
    name, rest = _split_command(argv)
    try:
        with install_handlers():
            return _dispatch(name, rest)
    except FlowertuneError as error:
        reason, exit_code = str(error), error.exit_code
    except KeyboardInterrupt as interruption:
        reason = str(interruption) or "interrupted"
        exit_code = getattr(interruption, "exit_code", EXIT_INTERRUPTED)
    print(f"{f'flowertune {name}'.rstrip()}: {reason}", file=sys.stderr)
    return exit_code


def _dispatch(name: str, rest: Sequence[str]) -> int:
    first = rest[0] if rest else ""
    if not name and first in COMPLETION:
        return _complete(rest)
    wants_help = not HELP.isdisjoint(rest if name in COMMANDS else rest[:1])
    if wants_help or not (rest or name in COMMANDS):
        from flowertune.commands.help import help_text

        print(help_text(name, _help_topic(rest)))
        return EXIT_DONE if wants_help else EXIT_REFUSED
    if "--version" in rest:
        print(f"flowertune {__version__}")
        return EXIT_DONE
    return _execute(name, rest) if name in COMMANDS else _refuse_unknown(name, first)


def _help_topic(arguments: Sequence[str]) -> str:
    """Read the group behind --help, if there is one; "all" for --help-all."""
    if "--help-all" in arguments:
        return "all"
    words = itertools.dropwhile(lambda word: word not in HELP, arguments)
    topic = next(itertools.islice(words, 1, None), "")
    return topic if topic.isidentifier() else ""


def _split_command(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Split off the command, or the family of commands, that the arguments begin with."""
    name = ""
    for index, word in enumerate(argv):
        candidate = f"{name} {word}".lstrip()
        if candidate not in COMMANDS and candidate not in FAMILIES:
            return name, argv[index:]
        name = candidate
    return name, []


def _execute(name: str, arguments: Sequence[str]) -> int:
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported, and so not later
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    command = COMMANDS[name]
    place = command.function or f"{name.replace(' ', '_')}:execute"

    def call(*values: object, **flags: object) -> int:
        """Call the command's function; its module is imported now, as that may take seconds."""
        exit_code: int = resolve_name(f"flowertune.commands.{place}")(*values, **flags)
        return exit_code

    if any(each.name == "--backbone-path" for each in command.arguments):  # as train spells it
        arguments = [re.sub(r"^backbone\.path=", "--backbone-path=", word) for word in arguments]
    parser = make_parser(command.arguments)
    if not command.composes:
        return call(parser.parse_intermixed_args(arguments))
    from flowertune.commands import compose

    flags, overrides = parser.parse_known_args(arguments)
    return compose.run(overrides, lambda config: call(config, **vars(flags)), command.composes)


def _refuse_unknown(family: str, word: str) -> NoReturn:
    choices = subcommands(family)
    matches = SYNONYMS.get(word) or difflib.get_close_matches(word, choices, n=1)
    first = f"{family} {choices[0]}".lstrip()
    if COMMANDS[first].composes and ("=" in word or word.startswith("-")):
        hint = f"the command comes first, for example: flowertune {first} {word}"
    elif matches:
        hint = f"did you mean {matches[0]}?"
    else:
        hint = f"the commands are: {', '.join(choices)}"
    raise UsageError(f"{word!r} is not a command; {hint}")


def _complete(argv: Sequence[str]) -> int:
    """Complete the command itself and its flags, and leave the other words to Hydra.

    The shell asks with the whole line in COMP_LINE; Hydra must see it without the command.
    """
    if any(word.startswith("query=") for word in argv):
        program, *tokens = os.environ.get("COMP_LINE", "").split(" ")
        previous, prefix = [t for t in tokens[:-1] if t], tokens[-1] if tokens else ""
        name, rest = _split_command(previous)
        command = COMMANDS.get(name)
        if command is None:
            choices = [] if rest else subcommands(name)
        else:
            choices = [each.name for each in command.arguments if each.is_flag]
        if command is None or not command.composes or prefix.startswith("-"):
            print("\n".join(word for word in choices if word.startswith(prefix)))
            return EXIT_DONE
        overrides = [word for word in rest if word not in choices]
        os.environ["COMP_LINE"] = " ".join([program, *overrides, prefix])
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    from flowertune.commands import compose

    return compose.run(argv, lambda config: EXIT_DONE)
