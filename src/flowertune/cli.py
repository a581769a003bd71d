"""Dispatch the command line. Imports nothing heavy, so that `--help` answers at once."""

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence

from flowertune import __version__
from flowertune.commands.arguments import make_parser
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands
from flowertune.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    FlowertuneError,
    Interrupted,
)
from flowertune.signals import install_handlers

# How often an idle OpenMP thread looks for work before it sleeps. The library's own choice, some
# hundred thousand times, takes the cores from whatever else runs there: a training step beside one
# other process took 5.1 s, with this 2.0 s, and alone 0.93 s and 0.83 s (two cores, ViT-Tiny).
SPIN_COUNT = "10000"

COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 1 failed, 2 refused, 130 interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is io.TextIOWrapper:
            stream.reconfigure(errors="backslashreplace")  # any class name on any terminal
    try:
        exit_code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        print(end="", flush=True)  # here, where it can be said what of it is lost
    except FlowertuneError as error:  # of help and completion, which list what there is
        print(f"flowertune: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `| head` has seen enough; what is still to be written goes nowhere
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        return EXIT_FAILED
    return exit_code


def _dispatch(argv: Sequence[str]) -> int:
    name, rest = _split_command(argv)
    first = rest[0] if rest else ""
    if not name and first in COMPLETION:
        return _complete(argv)
    wants_help = first in ("-h", "--help") or (name in COMMANDS and {"-h", "--help"} & set(rest))
    if wants_help or not (rest or name in COMMANDS):
        from flowertune.commands.help import help_text

        print(help_text(name))
        return EXIT_DONE if wants_help else EXIT_REFUSED
    if "--version" in argv:
        print(f"flowertune {__version__}")
        return EXIT_DONE
    return _run(name, rest) if name in COMMANDS else _refuse_unknown(name, first)


def _split_command(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Split off the command, or the family of commands, that the arguments begin with."""
    name = ""
    for index, word in enumerate(argv):
        candidate = f"{name} {word}".lstrip()
        if not word or (candidate not in COMMANDS and candidate not in FAMILIES):
            return name, argv[index:]
        name = candidate
    return name, []


def _run(command: str, arguments: Sequence[str]) -> int:
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported, and so not later
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        with install_handlers():
            return _execute(command, arguments)
    except FlowertuneError as error:
        print(f"flowertune {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        print(f"flowertune {command}: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return interruption.exit_code if isinstance(interruption, Interrupted) else EXIT_INTERRUPTED


def _execute(name: str, arguments: Sequence[str]) -> int:
    command, parser = COMMANDS[name], make_parser(COMMANDS[name].arguments)
    if not command.composes:
        return _call(name, parser.parse_intermixed_args(arguments))
    from flowertune.commands import compose

    flags, overrides = parser.parse_known_args(arguments)
    return compose.run(
        overrides, lambda config: _call(name, config, **vars(flags)), command.composes
    )


def _call(name: str, *arguments: object, **flags: object) -> int:
    """Call the command's function; its module is imported now, as that may take seconds."""
    place = COMMANDS[name].function or f"{name.replace(' ', '_')}.execute"
    module, _, function = place.partition(".")
    imported = importlib.import_module(f"flowertune.commands.{module}")
    exit_code: int = getattr(imported, function)(*arguments, **flags)
    return exit_code


def _refuse_unknown(family: str, word: str) -> int:
    choices = subcommands(family)
    matches = difflib.get_close_matches(word, choices, n=1)
    first = f"{family} {choices[0]}".lstrip()
    composes = first in COMMANDS and COMMANDS[first].composes
    if composes and ("=" in word or word.startswith("-")):
        hint = f"the command comes first, for example: flowertune {first} {word}"
    elif matches:
        hint = f"did you mean {matches[0]}?"
    else:
        hint = f"the commands are: {', '.join(choices)}"
    program = f"flowertune {family}".rstrip()
    print(f"{program}: {word!r} is not a command; {hint}", file=sys.stderr)
    return EXIT_REFUSED


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
