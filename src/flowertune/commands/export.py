"""`flowertune export`: export a trained model for other programs."""

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
    """Export the run, and upload it if requested."""
    output = args.output
    if output.exists() or output.is_symlink():
        raise UsageError(f"--output {output}: already exists; choose another folder")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: {output.absolute().parent} does not exist")
    export_format = FORMATS[args.format]
    missing = [name for name in export_format.PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {args.format}: {', '.join(missing)} not installed; "
            "pip install 'flowertune[export]'"
        )
    if args.push_to_hub is not None:
        hub.check(args.push_to_hub)
    # the device and precision that the export is compared in
    model = predictor.load(
        args.run, device="cpu", precision="fp32", keep_backbone=True,
        backbone_path=args.backbone_path,
    )  # fmt: skip
    reason = export_format.unsupported_reason(model)
    if reason is not None:
        raise UsageError(f"{args.run}: cannot be exported to --format {args.format}: {reason}")

    console = ConsoleReporter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in the other libraries
        result = _export(model, export_format, args.output)
    console.say(f"{args.output}: {args.format}; {result}")
    if args.push_to_hub is not None:
        console.say(hub.push(args.output, args.push_to_hub))
    return EXIT_DONE


def _export(model: Predictor, export_format: Format, output: Path) -> str:
    """Write the folder atomically; returns how its model compares with the run's."""
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
    # the libraries raise different errors for unwritable files and unsupported models
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{output}: export failed ({one_line(error)})") from error
    return result
