"""argv -> command. Imports nothing heavy, so that `--help` answers at once."""

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence

from flowertune import __version__
from flowertune.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    FlowertuneError,
    Interrupted,
)
from flowertune.help_text import COMMANDS, command_help, program_help

# How often an idle OpenMP thread looks for work before it sleeps. The library's own choice, some
# hundred thousand times, takes the cores from whatever else runs there: a training step beside one
# other process took 5.1 s, with this 2.0 s, and alone 0.93 s and 0.83 s (two cores, ViT-Tiny).
SPIN_COUNT = "10000"

COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (0 done, 1 failed, 2 refused, 130 interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # any class name on any terminal
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _dispatch(words: Sequence[str]) -> int:
    if not words:
        print(program_help())
        return EXIT_REFUSED
    first, rest = words[0], words[1:]
    if first in ("-h", "--help"):
        print(program_help())
        return EXIT_DONE
    if "--version" in words:
        print(f"flowertune {__version__}")
        return EXIT_DONE
    if first in COMPLETION:
        return _complete(words)
    if first not in COMMANDS:
        return _unknown(first)
    if {"-h", "--help"} & set(rest):
        print(command_help(first))
        return EXIT_DONE
    return _run(first, rest)


def _run(command: str, words: Sequence[str]) -> int:
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported, and so not later
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    from flowertune import composition  # Hydra takes a third of a second: only where it is needed
    from flowertune.config import Config

    flags = [word for word in words if word in COMMANDS[command].flags]
    settings = {f"as_{flag.lstrip('-')}": flag in flags for flag in COMMANDS[command].flags}

    def execute(config: Config) -> int:
        module = importlib.import_module(f"flowertune.commands.{command}")
        exit_code: int = module.execute(config, **settings)
        return exit_code

    try:
        others = [word for word in words if word not in flags]
        return composition.run(others, execute, sweeps=COMMANDS[command].sweeps)
    except FlowertuneError as error:
        print(f"flowertune {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        print(f"flowertune {command}: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return interruption.exit_code if isinstance(interruption, Interrupted) else EXIT_INTERRUPTED


def _unknown(word: str) -> int:
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    if "=" in word or word.startswith("-"):
        hint = f"the command comes first, for example: flowertune train {word}"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"the commands are: {', '.join(COMMANDS)}"
    print(f"flowertune: {word!r} is not a command; {hint}", file=sys.stderr)
    return EXIT_REFUSED


def _complete(words: Sequence[str]) -> int:
    """Hydra completes what follows the command; the command itself is completed here.

    The shell asks with the whole line in COMP_LINE; Hydra must see it without the command.
    """
    from flowertune import composition

    if any(word.startswith("query=") for word in words):
        typed = os.environ.get("COMP_LINE", "")
        program, _, after = typed.partition(" ")
        command, space, rest = after.lstrip().partition(" ")
        if not space:
            print("\n".join(name for name in COMMANDS if name.startswith(command)))
            return EXIT_DONE
        if command not in COMMANDS:
            return EXIT_DONE
        others = [word for word in rest.lstrip().split(" ") if word not in COMMANDS[command].flags]
        os.environ["COMP_LINE"] = " ".join([program, *others])
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return composition.run(words, lambda config: EXIT_DONE)
