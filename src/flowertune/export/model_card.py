"""Render the model card of an export: README.md in the format of the Hugging Face Hub."""

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
from flowertune.models.backbone import HUB
from flowertune.report.results_table import single_run_table

PREPROCESSING = "preprocessing.json"
LABELS = "labels.json"
FILE_DESCRIPTIONS = {
    LABELS: "class names, in the order of the logits",
    PREPROCESSING: "preprocessing settings",
    "preprocess.py": "preprocesses an image with Pillow and NumPy",
    "transformers_clip.py": "converts the model of open_clip to transformers",
}
# by the prefix of the weights' tag, as stated by their authors
LICENSES = {
    "openai": "MIT (github.com/openai/CLIP)",
    "laion": "MIT (LAION, on the Hugging Face Hub)",
    "builtin": "Apache-2.0 (flowertune)",
}


def render_card(
    model: Predictor, library: str, files: Mapping[str, str], code: str, parity: str
) -> str:
    """Render the card. library: its name on the Hub; files: names and descriptions."""
    backbone, results = model.backbone, model.run.results
    name = _escape(f"{results['method']} on {backbone.name} {backbone.tag}")
    file_list = "\n".join(f"- `{file}`: {meaning}" for file, meaning in files.items())
    notes = "".join(f"\n{_escape(note)}\n" for note in results["notes"])
    base_note = ""
    if "local-dir:BASE" in code:
        base_note = (
            f"\nBASE is the open_clip directory of {_escape(backbone.name)} "
            f"{_escape(backbone.tag)}. The SHA-256 of its weights is below.\n"
        )
    return f"""\
---
library_name: {library}
pipeline_tag: image-classification
tags: [flowertune, clip, fine-grained-image-classification]
{_base_model_line(model)}---
# {name}

Classifies an image as one of {len(model.class_names)} classes. It always predicts one of them, even
for unrelated images. Trained with flowertune as run `{_escape(model.run.name)}`
(`method={_escape(results["method"])}`) and exported with flowertune {__version__}.

## Use

In this folder:

```python
{code}
```

Preprocessing: {_describe_preprocessing(backbone.preprocessing)}. The softmax of the logits gives
probabilities.
{base_note}
## Files

{file_list}

## Results

{_escape(results["protocol"])}

{_table(results)}

Accuracies are in percent, with 95% Wilson intervals. If there is a val row, the weights were
selected on val. Measured in {results["precision"]} on {_escape(results["device"])}, seed
{results["seed"]}.
{notes}
## Parity

Compared with the model of the run, both in float32 on a CPU: {parity}.

## Base weights

{_escape(backbone.name)}, weights {_escape(backbone.tag)}, activation {backbone.activation}, SHA-256
`{backbone.weights_sha256}`. License: {_license(model)}.
"""


def _base_model_line(model: Predictor) -> str:
    """Metadata line that links the base weights on the Hub, or nothing if they are not there."""
    settings, backbone = model.config.backbone, model.backbone
    if settings.source != "open_clip" or settings.weights == "random":
        return ""
    if backbone.name.startswith(HUB):
        return f"base_model: {backbone.name.removeprefix(HUB)}\n"
    entry = open_clip.get_pretrained_cfg(backbone.name, backbone.tag)
    return f"base_model: {entry['hf_hub'].rpartition('/')[0]}\n"


def _describe_preprocessing(target: Preprocessing) -> str:
    shape = f"{target.size[0]} x {target.size[1]} pixels (height x width)"
    resizing = {
        "shortest": f"to cover {shape}, center-cropped to it",
        "longest": f"to fit into {shape}, padded to it with {target.fill_color}",
        "squash": f"to {shape}",
    }[target.resize_mode]
    mean, std = (", ".join(f"{value:g}" for value in each) for each in (target.mean, target.std))
    return (
        f"rotated by the EXIF orientation, converted to RGB, resized ({target.interpolation}) "
        f"{resizing}, divided by 255, normalized with mean ({mean}) and std ({std})"
    )


def _table(results: Mapping[str, Any]) -> str:
    rows = [(split, row) for split in EVALUATED_SPLITS for row in result_rows(results, split)]
    (_, *titles), cells = single_run_table([row for _, row in rows], decimals=1)
    lines = [f"| | images | {' | '.join(titles)} |", "|---" * (2 + len(titles)) + "|"]
    for (split, row), (name, *numbers) in zip(rows, cells, strict=True):
        line = [f"{split}, {_escape(name)}", f"{row.metrics[0]['n']:,}", *numbers]
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def _license(model: Predictor) -> str:
    tag = "" if model.config.backbone.source == "directory" else model.backbone.tag
    known = (name for prefix, name in LICENSES.items() if tag.startswith(prefix))
    return next(known, "unknown; see the source of the weights")


def _escape(text: str) -> str:
    """Escape Markdown and HTML, also for table cells."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", printable(text))
