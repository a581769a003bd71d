"""`flowertune export`: export a finished run's model for other programs."""

import importlib.util
import json
import shutil
import warnings
from argparse import Namespace
from pathlib import Path

from safetensors import SafetensorError

from flowertune import files
from flowertune.errors import EXIT_DONE, ExportError, UsageError, one_line
from flowertune.export import hub, model_card, parity
from flowertune.export.formats import FORMATS, Format
from flowertune.export.model_card import LABELS, PREPROCESSING
from flowertune.inference import predictor
from flowertune.inference.predictor import Predictor
from flowertune.report.console.run import ConsoleReporter

BUNDLED = Path(parity.__file__).parent / "bundled"


def execute(args: Namespace) -> int:
    """Export one run and return the exit code."""
    output = args.output
    if output.exists() or output.is_symlink():
        raise UsageError(f"--output {output}: is there already; choose another place")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.absolute().parent}")
    export_format = FORMATS[args.format]
    missing = [name for name in export_format.PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {args.format}: {', '.join(missing)} not installed; "
            "pip install 'flowertune[export]'"
        )
    if args.push_to_hub is not None:
        hub.check(args.push_to_hub)
    # as other programs compute it; nothing shows that a GPU or another precision is exported
    model = predictor.load(args.run, device="cpu", precision="fp32", keep_backbone=True)
    reason = export_format.unsupported_reason(model)
    if reason is not None:
        raise UsageError(f"{args.run}: --format {args.format} cannot hold it: {reason}")

    console = ConsoleReporter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other libraries, about their own next versions
        result = _export(model, export_format, args.output)
    console.say(f"{args.output}: {args.format}; {result}")
    if args.push_to_hub is not None:
        console.say(hub.push(args.output, args.push_to_hub))
    return EXIT_DONE


def _export(model: Predictor, export_format: Format, output: Path) -> str:
    """Write the folder atomically, and say how its model compares with the run's."""
    sample = parity.draw_sample(model)
    tables = {LABELS: model.class_names, PREPROCESSING: model.preprocessing.to_dict()}
    try:
        with files.new_folder(output) as folder:
            contents = export_format.write(model, folder)
            result = parity.compare(model, export_format.load(model, folder), *sample)
            for name, values in tables.items():
                text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
                (folder / name).write_text(text, encoding="utf-8")
            for name in export_format.BUNDLED:
                shutil.copyfile(BUNDLED / name, folder / name)
            for name in (*tables, *export_format.BUNDLED):
                contents[name] = model_card.FILE_DESCRIPTIONS[name]
            text = model_card.render_card(
                model, export_format.LIBRARY, contents, export_format.code(model), result
            )
            (folder / "README.md").write_text(text, encoding="utf-8")
    # each library has its own for a file that cannot be written and for a model it cannot take
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{output}: could not be made ({one_line(error)})") from error
    return result
