"""Write the model card of an export: README.md, as the Hugging Face Hub shows it."""

import re
from collections.abc import Mapping
from typing import Any

import open_clip

from flowertune import __version__
from flowertune.analysis.results_table import result_rows
from flowertune.data.image import Preprocessing
from flowertune.errors import printable
from flowertune.inference.predictor import Predictor
from flowertune.metrics import EVALUATED_SPLITS
from flowertune.report.results_table import single_run_table

PREPROCESSING = "preprocessing.json"
LABELS = "labels.json"
FILE_DESCRIPTIONS = {
    LABELS: "the class names, in the order of the logits",
    PREPROCESSING: "what an image must be for the model",
    "preprocess.py": "makes it of a photo, by Pillow and NumPy alone",
    "transformers_clip.py": "makes transformers' model of open_clip's",
}
# Of weights, by how their tags begin, as those who trained them say.
LICENSES = {
    "openai": "MIT (github.com/openai/CLIP)",
    "laion": "MIT (LAION, on the Hugging Face Hub)",
    "builtin": "Apache-2.0 (flowertune)",
}


def render_card(
    model: Predictor, library: str, files: Mapping[str, str], code: str, parity: str
) -> str:
    """Render the card. `library`: its name on the Hub; `files`: their descriptions."""
    backbone, results = model.backbone, model.run.results
    name = _escape(f"{results['method']} on {backbone.name} {backbone.tag}")
    file_list = "\n".join(f"- `{file}`: {meaning}" for file, meaning in files.items())
    notes = "".join(f"\n{_escape(note)}\n" for note in results["notes"])
    base_note = ""
    if "local-dir:BASE" in code:
        base_note = (
            f"\nBASE is the open_clip directory of {_escape(backbone.name)} "
            f"{_escape(backbone.tag)}, whose weights have the SHA-256 below.\n"
        )
    return f"""\
---
library_name: {library}
pipeline_tag: image-classification
tags: [flowertune, clip, fine-grained-image-classification]
{_base_model_line(model)}---
# {name}

Names one of {len(model.class_names)} classes for a photo, whatever the photo shows. Trained by
flowertune as the run `{_escape(model.run.name)}` (`method={_escape(results["method"])}`) and
exported by flowertune {__version__}.

## Use

In this folder:

```python
{code}
```

An image is {_describe_input(backbone.preprocessing)}. A softmax of the logits gives probabilities.
{base_note}
## Files

{file_list}

## Results

{_escape(results["protocol"])}

{_table(results)}

Accuracies in per cent, with the 95 % Wilson interval of the photos they were measured on; val
chose the weights where there is one. Measured in {results["precision"]} on
{_escape(results["device"])}, seed {results["seed"]}.
{notes}
## Parity

This export beside the run's own model, both in float32 on a CPU: {parity}.

## Base weights

{_escape(backbone.name)}, weights {_escape(backbone.tag)}, activation {backbone.activation}, SHA-256
`{backbone.weights_sha256}`. Licence: {_license(model)}.
"""


def _base_model_line(model: Predictor) -> str:
    """Metadata line that links the base weights on the Hub, if they are there."""
    settings, backbone = model.config.backbone, model.backbone
    if settings.source != "open_clip" or settings.weights == "random":
        return ""
    entry = open_clip.get_pretrained_cfg(backbone.name, backbone.tag)
    return f"base_model: {entry['hf_hub'].rpartition('/')[0]}\n"


def _describe_input(target: Preprocessing) -> str:
    shape = f"{target.size[0]} x {target.size[1]} pixels (height x width)"
    resizing = {
        "shortest": f"until it just covers {shape}, cropped to that in the middle",
        "longest": f"until it just fits into {shape}, padded to that with {target.fill_color}",
        "squash": f"to {shape}",
    }[target.resize_mode]
    mean, std = (", ".join(f"{value:g}" for value in each) for each in (target.mean, target.std))
    return (
        "turned upright by its EXIF, converted to RGB, resized "
        f"({target.interpolation}) {resizing}, divided by 255, less the mean ({mean}), over the "
        f"deviation ({std})"
    )


def _table(results: Mapping[str, Any]) -> str:
    rows = [(split, row) for split in EVALUATED_SPLITS for row in result_rows(results, split)]
    (_, *titles), cells = single_run_table([row for _, row in rows], decimals=1)
    lines = [f"| | photos | {' | '.join(titles)} |", "|---" * (2 + len(titles)) + "|"]
    for (split, row), (name, *numbers) in zip(rows, cells, strict=True):
        line = [f"{split}, {_escape(name)}", f"{row.metrics[0]['n']:,}", *numbers]
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def _license(model: Predictor) -> str:
    tag = "" if model.config.backbone.source == "directory" else model.backbone.tag
    known = (name for prefix, name in LICENSES.items() if tag.startswith(prefix))
    return next(known, "not known to flowertune; see where they come from")


def _escape(text: str) -> str:
    """Escape a name for Markdown: markup, HTML and table edges."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", printable(text))
