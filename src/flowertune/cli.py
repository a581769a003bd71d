"""Dispatch the command line. Imports nothing heavy, so that `--help` answers at once."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from flowertune import __version__
from flowertune.commands.help import command_help, family_help, program_help
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands
from flowertune.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    FlowertuneError,
    Interrupted,
)
from flowertune.runtime.streams import resilient_output
from flowertune.signals import install_handlers

# How often an idle OpenMP thread looks for work before it sleeps. The library's own choice, some
# hundred thousand times, takes the cores from whatever else runs there: a training step beside one
# other process took 5.1 s, with this 2.0 s, and alone 0.93 s and 0.83 s (two cores, ViT-Tiny).
SPIN_COUNT = "10000"

COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 1 failed, 2 refused, 130 interrupted)."""
    with resilient_output() as lost:
        try:
            exit_code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        except FlowertuneError as error:  # of help and completion, which list what there is
            print(f"flowertune: {error}", file=sys.stderr)
            exit_code = error.exit_code
    if not lost:
        return exit_code
    print(f"flowertune: not all of the output could be written: {lost[0].strerror}",
          file=sys.stderr)  # fmt: skip
    return exit_code or EXIT_FAILED


def _dispatch(argv: Sequence[str]) -> int:
    if not argv:
        print(program_help())
        return EXIT_REFUSED
    first = argv[0]
    if first in ("-h", "--help"):
        print(program_help())
        return EXIT_DONE
    if "--version" in argv:
        print(f"flowertune {__version__}")
        return EXIT_DONE
    if first in COMPLETION:
        return _complete(argv)
    name, rest = _split_command(argv)
    if name in COMMANDS:
        if {"-h", "--help"} & set(rest):
            print(command_help(name))
            return EXIT_DONE
        return _run(name, rest)
    if rest and rest[0] not in ("-h", "--help"):
        return _refuse_unknown(name, rest[0])
    print(family_help(name))
    return EXIT_DONE if rest else EXIT_REFUSED


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
            if COMMANDS[command].composes:
                return _compose_and_execute(command, arguments)
            exit_code: int = _import_command(command).execute(arguments)
            return exit_code
    except FlowertuneError as error:
        print(f"flowertune {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        print(f"flowertune {command}: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return interruption.exit_code if isinstance(interruption, Interrupted) else EXIT_INTERRUPTED


def _compose_and_execute(command: str, arguments: Sequence[str]) -> int:
    from flowertune.commands import compose
    from flowertune.config.schema import Config

    spec = COMMANDS[command]
    flags = [word for word in arguments if word in spec.flags]
    options = {f"as_{flag.lstrip('-')}": flag in flags for flag in spec.flags}
    module = "train" if spec.reproduces else command  # what is reproduced are trainings

    def execute(config: Config) -> int:
        exit_code: int = _import_command(module).execute(config, **options)
        return exit_code

    overrides = [word for word in arguments if word not in flags]
    return compose.run(overrides, execute, sweeps=spec.sweeps, reproduces=spec.reproduces)


def _import_command(command: str) -> Any:
    return importlib.import_module(f"flowertune.commands.{command.replace(' ', '_')}")


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
    """Complete the command itself, and leave the words after it to Hydra.

    The shell asks with the whole line in COMP_LINE; Hydra must see it without the command.
    """
    if any(word.startswith("query=") for word in argv):
        program, *tokens = os.environ.get("COMP_LINE", "").split(" ")
        previous, prefix = [t for t in tokens[:-1] if t], tokens[-1] if tokens else ""
        name, rest = _split_command(previous)
        if name not in COMMANDS:
            choices = [] if rest else subcommands(name)
            print("\n".join(word for word in choices if word.startswith(prefix)))
            return EXIT_DONE
        command = COMMANDS[name]
        if not command.composes:
            return EXIT_DONE
        overrides = [word for word in rest if word not in command.flags]
        os.environ["COMP_LINE"] = " ".join([program, *overrides, prefix])
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    from flowertune.commands import compose  # as above

    return compose.run(argv, lambda config: EXIT_DONE)
