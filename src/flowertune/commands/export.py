"""`flowertune export`: a finished run's model for other programs. Reads from top to bottom."""

import argparse
import importlib.util
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from flowertune import files
from flowertune.commands.arguments import ArgumentParser
from flowertune.errors import EXIT_DONE, ExportError, UsageError, one_line
from flowertune.export import exportable, hub, model_card, parity
from flowertune.export.exportable import Exportable
from flowertune.export.formats import FORMATS, Format
from flowertune.report.console.run import ConsoleReporter

BUNDLED = Path(parity.__file__).parent / "bundled"


def execute(words: Sequence[str]) -> int:
    """Exports one run and returns the exit code.

    Raises:
        UsageError: words that are not understood, what is no finished run, a model that the format
            cannot hold, packages that are missing, or a place that is taken.
        ExportError: what came out is not the run's model, or could not be written or pushed.
    """
    asked = _parse(words)
    _check_place(asked.output)
    chosen = FORMATS[asked.format]
    missing = [name for name in chosen.PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {asked.format}: {', '.join(missing)} not installed; "
            "pip install 'flowertune[export]'"
        )
    if asked.push_to_hub is not None:
        hub.check(asked.push_to_hub)
    model = exportable.load(asked.run)
    why = chosen.unsupported_reason(model)
    if why is not None:
        raise UsageError(f"{asked.run}: --format {asked.format} cannot hold it: {why}")

    console = ConsoleReporter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other libraries, about their own next versions
        found = _export(model, chosen, asked.output)
    console.say(f"{asked.output}: {asked.format}; {found.describe()}")
    if asked.push_to_hub is not None:
        console.say(hub.push(asked.output, asked.push_to_hub))
    return EXIT_DONE


def _export(model: Exportable, chosen: Format, output: Path) -> parity.Parity:
    """The folder, whole or not at all, after what is in it was compared with the run's model."""
    results = model.run.results()
    on = parity.draw_sample(model)
    described = {**chosen.files(model), **_described(chosen)}
    try:
        with files.new_folder(output) as folder:
            chosen.write(model, folder)
            found = parity.compare(model, chosen.load(model, folder), on)
            (folder / model_card.LABELS).write_text(model_card.labels_json(model), encoding="utf-8")
            (folder / model_card.PREPROCESSING).write_text(
                model_card.preprocessing_json(model), encoding="utf-8"
            )
            for name in chosen.BUNDLED:
                shutil.copyfile(BUNDLED / name, folder / name)
            text = model_card.card(
                model, results, chosen.LIBRARY, described, chosen.code(model), found
            )  # fmt: skip
            (folder / "README.md").write_text(text, encoding="utf-8")
    # each library has its own for a file that cannot be written and for a model it cannot take
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{output}: could not be made ({one_line(error)})") from error
    return found


def _described(chosen: Format) -> dict[str, str]:
    names = (model_card.LABELS, model_card.PREPROCESSING, *chosen.BUNDLED)
    return {name: model_card.FILE_DESCRIPTIONS[name] for name in names}


def _check_place(output: Path) -> None:
    if output.exists() or output.is_symlink():
        raise UsageError(f"--output {output}: is there already; choose another place")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.absolute().parent}")


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser()
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--push-to-hub", metavar="REPO")
    return parser.parse_intermixed_args(words)
