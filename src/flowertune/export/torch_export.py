"""Format torch: a torch.export program, which torch runs without the code of the model."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flowertune.export.exportable import Exportable
from flowertune.export.graph import trace

PACKAGES: tuple[str, ...] = ()
LIBRARY = "pytorch"
BUNDLED: tuple[str, ...] = ("preprocess.py",)
MODEL = "model.pt2"


def unsupported_reason(model: Exportable) -> str | None:
    """Holds every model."""
    return None


def write(model: Exportable, folder: Path) -> None:
    """model.pt2: images (B, 3, H, W), normalized, to logits (B, C), B from 1."""
    torch.export.save(trace(model), folder / MODEL)


def load(model: Exportable, folder: Path) -> Callable[[Tensor], Tensor]:
    """What torch makes of the folder alone."""
    program = torch.export.load(folder / MODEL)
    module: Callable[[Tensor], Tensor] = program.module()
    return module


def files(model: Exportable) -> dict[str, str]:
    """What `write` leaves, and what it is."""
    return {MODEL: "a torch.export program: normalised images to logits, any number at once"}


def code(model: Exportable) -> str:
    """How to use it, in this folder."""
    return f"""\
import json, torch
from preprocess import load

model, labels = torch.export.load("{MODEL}").module(), json.load(open("labels.json"))
logits = model(torch.from_numpy(load("photo.jpg")))
print([labels[place] for place in logits.argmax(1)])"""
