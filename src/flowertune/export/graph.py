"""Trace the classifier with torch.export, as a program that torch runs without the model's code."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from flowertune.errors import ExportError, one_line
from flowertune.inference.predictor import Predictor
from flowertune.models.vision_tower import embed

PACKAGES: tuple[str, ...] = ()
LIBRARY = "pytorch"
BUNDLED: tuple[str, ...] = ("preprocess.py",)
MODEL = "model.pt2"
INPUT, OUTPUT = "images", "logits"


def unsupported_reason(model: Predictor) -> str | None:
    """Every model is supported."""
    return None


def write(model: Predictor, folder: Path) -> dict[str, str]:
    """Write model.pt2: normalized images (B, 3, H, W) to logits (B, C), B from 1."""
    torch.export.save(trace(model), folder / MODEL)
    return {MODEL: "a torch.export program: normalised images to logits, any number at once"}


def load(model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the exported program in torch."""
    module: Callable[[Tensor], Tensor] = torch.export.load(folder / MODEL).module()
    return module


def code(model: Predictor) -> str:
    """Usage example, run in the exported folder."""
    return f"""\
import json, torch
from preprocess import load

model, labels = torch.export.load("{MODEL}").module(), json.load(open("labels.json"))
logits = model(torch.from_numpy(load("photo.jpg")))
print([labels[place] for place in logits.argmax(1)])"""


def trace(model: Predictor) -> ExportedProgram:
    """Trace `PortableClassifier`: images (B, 3, H, W) float32, B from 1, to logits (B, C).

    Raises ExportError where torch.export cannot follow this image tower.
    """
    example = torch.zeros(2, 3, *model.preprocessing.size)
    shapes = {INPUT: {0: Dim("batch")}}
    try:
        program = torch.export.export(
            PortableClassifier(model), (example,), dynamic_shapes=shapes, strict=False
        )
    # Towers of timm and of open_clip's users hold any code, and torch.export fails on it in as
    # many ways.
    except Exception as error:
        raise ExportError(
            f"torch.export cannot follow the image tower of {model.backbone.name}: "
            f"{one_line(error)}"
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                # where in this machine's files each operation stands is nobody else's business
                node.meta.pop("stack_trace", None)
    return program


class PortableClassifier(nn.Module):
    """Normalized images (B, 3, H, W) -> logits (B, C), float32; LoRA and prompts included."""

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        head = model.classifier.head.as_linear()
        self.visual = model.classifier.visual
        self.prompts = model.classifier.prompts
        self.normalizes = head.normalizes
        self.register_buffer("weight", head.weight)
        self.register_buffer("bias", head.bias)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        embedding = embed(self.visual, images, self.prompts).float()
        if self.normalizes:
            embedding = F.normalize(embedding, dim=1)
        return F.linear(embedding, self.weight, self.bias)
