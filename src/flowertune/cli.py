"""argv -> command. Imports nothing heavy, so that `--help` answers at once."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from flowertune import __version__
from flowertune.commands.help import command_help, family_help, program_help
from flowertune.commands.registry import COMMANDS, FAMILIES, next_words
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
    """Runs one command and returns its exit code (0 done, 1 failed, 2 refused, 130 interrupted)."""
    with resilient_output() as lost:
        exit_code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    if not lost:
        return exit_code
    print(f"flowertune: not all of the output could be written: {lost[0].strerror}",
          file=sys.stderr)  # fmt: skip
    return exit_code or EXIT_FAILED


def _dispatch(words: Sequence[str]) -> int:
    if not words:
        print(program_help())
        return EXIT_REFUSED
    first = words[0]
    if first in ("-h", "--help"):
        print(program_help())
        return EXIT_DONE
    if "--version" in words:
        print(f"flowertune {__version__}")
        return EXIT_DONE
    if first in COMPLETION:
        return _complete(words)
    name, rest = _named(words)
    if name in COMMANDS:
        if {"-h", "--help"} & set(rest):
            print(command_help(name))
            return EXIT_DONE
        return _run(name, rest)
    if rest and rest[0] not in ("-h", "--help"):
        return _unknown(name, rest[0])
    print(family_help(name))
    return EXIT_DONE if rest else EXIT_REFUSED


def _named(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command, or the family of commands, that the words begin with; and the other words."""
    name = ""
    for place, word in enumerate(words):
        longer = f"{name} {word}".lstrip()
        if not word or (longer not in COMMANDS and longer not in FAMILIES):
            return name, words[place:]
        name = longer
    return name, []


def _run(command: str, words: Sequence[str]) -> int:
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported, and so not later
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        with install_handlers():
            if COMMANDS[command].composes:
                return _compose_and_execute(command, words)
            exit_code: int = _module(command).execute(words)
            return exit_code
    except FlowertuneError as error:
        print(f"flowertune {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        print(f"flowertune {command}: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return interruption.exit_code if isinstance(interruption, Interrupted) else EXIT_INTERRUPTED


def _compose_and_execute(command: str, words: Sequence[str]) -> int:
    from flowertune.commands import compose
    from flowertune.config.schema import Config

    kind = COMMANDS[command]
    flags = [word for word in words if word in kind.flags]
    settings = {f"as_{flag.lstrip('-')}": flag in flags for flag in kind.flags}
    doer = "train" if kind.reproduces else command  # what is reproduced are trainings

    def execute(config: Config) -> int:
        exit_code: int = _module(doer).execute(config, **settings)
        return exit_code

    others = [word for word in words if word not in flags]
    return compose.run(others, execute, sweeps=kind.sweeps, reproduces=kind.reproduces)


def _module(command: str) -> Any:
    return importlib.import_module(f"flowertune.commands.{command.replace(' ', '_')}")


def _unknown(family: str, word: str) -> int:
    known = next_words(family)
    near = difflib.get_close_matches(word, known, n=1)
    first = f"{family} {known[0]}".lstrip()
    composes = first in COMMANDS and COMMANDS[first].composes
    if composes and ("=" in word or word.startswith("-")):
        hint = f"the command comes first, for example: flowertune {first} {word}"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"the commands are: {', '.join(known)}"
    program = f"flowertune {family}".rstrip()
    print(f"{program}: {word!r} is not a command; {hint}", file=sys.stderr)
    return EXIT_REFUSED


def _complete(words: Sequence[str]) -> int:
    """Hydra completes what follows the command; the command itself is completed here.

    The shell asks with the whole line in COMP_LINE; Hydra must see it without the command.
    """
    if any(word.startswith("query=") for word in words):
        program, *typed = os.environ.get("COMP_LINE", "").split(" ")
        before, last = [word for word in typed[:-1] if word], typed[-1] if typed else ""
        name, rest = _named(before)
        if name not in COMMANDS:
            known = [] if rest else next_words(name)
            print("\n".join(word for word in known if word.startswith(last)))
            return EXIT_DONE
        command = COMMANDS[name]
        if not command.composes:
            return EXIT_DONE
        others = [word for word in rest if word not in command.flags]
        os.environ["COMP_LINE"] = " ".join([program, *others, last])
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    from flowertune.commands import compose  # as above

    return compose.run(words, lambda config: EXIT_DONE)
