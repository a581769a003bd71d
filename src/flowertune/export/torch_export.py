"""Export as a torch.export program, which torch runs without the model's code."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flowertune.export.graph import trace
from flowertune.inference.predictor import Predictor

PACKAGES: tuple[str, ...] = ()
LIBRARY = "pytorch"
BUNDLED: tuple[str, ...] = ("preprocess.py",)
MODEL = "model.pt2"


def unsupported_reason(model: Predictor) -> str | None:
    """Every model is supported."""
    return None


def write(model: Predictor, folder: Path) -> None:
    """Write model.pt2: normalized images (B, 3, H, W) to logits (B, C), B from 1."""
    torch.export.save(trace(model), folder / MODEL)


def load(model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the exported program in torch."""
    program = torch.export.load(folder / MODEL)
    module: Callable[[Tensor], Tensor] = program.module()
    return module


def files(model: Predictor) -> dict[str, str]:
    """Exported files and their descriptions."""
    return {MODEL: "a torch.export program: normalised images to logits, any number at once"}


def code(model: Predictor) -> str:
    """Usage example, run in the exported folder."""
    return f"""\
import json, torch
from preprocess import load

model, labels = torch.export.load("{MODEL}").module(), json.load(open("labels.json"))
logits = model(torch.from_numpy(load("photo.jpg")))
print([labels[place] for place in logits.argmax(1)])"""
