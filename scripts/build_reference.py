"""Write docs/reference/ and the tables of methods in README and docs/methods.md from the code.

`make reference` runs it; tests/test_docs.py fails when a page is stale.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import flowertune
from flowertune.commands.registry import COMMANDS
from flowertune.config.groups import SCHEMAS
from flowertune.config.listing import Key, list_keys, list_options

BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
ROOT = Path(__file__).resolve().parents[1]
PUBLIC = ("load", "Predictor", "Prediction", "UnreadableImage", "UnreadableImageError")
PREDICTOR_METHODS = ("predict", "stream")  # the rest of it is for flowertune's own commands


def build_pages() -> dict[Path, str]:
    """Render each page that is made from the code, or has a part that is."""
    reference = ROOT / "docs" / "reference"
    lines = {
        reference / "config.md": _config_page(),
        reference / "commands.md": _commands_page(),
        reference / "python.md": _python_page(),
    }
    pages = {path: "\n".join(page).rstrip() + "\n" for path, page in lines.items()}
    methods = list_options("method")
    short = [(f"`{each.name}`", each.summary, each.cost) for each in methods]
    whole = [(f"`{each.name}`", each.summary, each.when, each.cost) for each in methods]
    for path, header, rows in (
        (ROOT / "README.md", ("method", "what it is", "cost"), short),
        (ROOT / "docs" / "methods.md", ("method", "what it is", "when to use it", "cost"), whole),
    ):
        before, begin, rest = path.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
        _, end, after = rest.partition(END)
        pages[path] = "".join([before, begin, *_table(header, rows), end, after])
    return pages


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"


def _config_page() -> Iterator[str]:
    yield "# Config keys\n"
    yield (
        "Set a key with `key=value` and choose an option with `group=option`, for example "
        "`flowertune train data=folder trainer.epochs=20`. Methods and options change some of "
        "these defaults; `flowertune train method=mixup --cfg job` prints the config that a run "
        "gets.\n"
    )
    for group, keys in groupby(list_keys(), key=lambda key: key.group):
        yield f"## {group or 'Top level'}\n"
        options = list_options(group) if group else []
        if options:
            names = [(f"`{group}={option.name}`", option.summary) for option in options]
            yield "".join(_table(("option", "what it is"), names))
        yield "".join(_table(("key", "default", "type and range", "meaning"), map(_cells, keys)))


def _cells(key: Key) -> tuple[str, ...]:
    default = f"`{key.default}`" if key.default else "required"
    only = ""
    if key.options and key.group in SCHEMAS:
        only = f" (only {', '.join(f'`{key.group}={option}`' for option in key.options)})"
    return f"`{key.name}`", default, key.type, key.meaning + only


def _commands_page() -> Iterator[str]:
    yield "# Commands\n"
    yield (
        "`flowertune COMMAND --help` prints the same on a terminal. Commands that compose a "
        "config also take `group=option` and `key=value` ([config keys](config.md)).\n"
    )
    for name, command in COMMANDS.items():
        yield f"## flowertune {name}\n"
        yield f"{command.description}\n"
        yield "```sh"
        yield from (f"{line}  # {note}" for line, note in command.examples)
        yield "```\n"
        flags = [each for each in command.arguments if each.is_flag]
        if flags:
            rows = [(f"`{flag.usage}`", flag.meaning) for flag in flags]
            yield "".join(_table(("option", "meaning"), rows))


def _python_page() -> Iterator[str]:
    yield "# Python API\n"
    yield "Everything here is imported from `flowertune`.\n"
    for name in PUBLIC:
        item = getattr(flowertune, name)
        if not inspect.isclass(item):
            yield from _entry(f"flowertune.{name}", item)
            continue
        yield f"## flowertune.{name}\n"
        yield f"{_docstring(item)}\n"
        for method in PREDICTOR_METHODS if name == "Predictor" else ():
            yield from _entry(f"{name}.{method}", getattr(item, method), level=3)


def _entry(title: str, function: object, level: int = 2) -> Iterator[str]:
    assert callable(function)
    yield f"{'#' * level} {title}\n"
    yield f"```python\n{title}{_signature(function)}\n```\n"
    yield f"{_docstring(function)}\n"


def _docstring(item: object) -> str:
    """Render a docstring with its Args and Raises as lists."""
    text = inspect.getdoc(item) or ""
    text = re.sub(r"^(Args|Raises):$", r"**\1**\n", text, flags=re.MULTILINE)
    return re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)


def _signature(function: object) -> str:
    """Format a signature without `self` and without the modules of its types."""
    assert callable(function)
    text = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", str(inspect.signature(function)))
    return text.replace("(self, ", "(").replace("'", "")


if __name__ == "__main__":
    for path, text in build_pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
