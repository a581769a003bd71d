"""Export the classifier with torch.export, to a program that needs only torch."""

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
    return {MODEL: "torch.export program from normalized images to logits, for any batch size"}


def load(model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the exported program with torch."""
    module: Callable[[Tensor], Tensor] = torch.export.load(folder / MODEL).module()
    return module


def code(model: Predictor) -> str:
    """Usage example, run in the exported folder."""
    return f"""\
import json, torch
from preprocess import load

model, labels = torch.export.load("{MODEL}").module(), json.load(open("labels.json"))
logits = model(torch.from_numpy(load("image.jpg")))
print([labels[index] for index in logits.argmax(1)])"""


def trace(model: Predictor) -> ExportedProgram:
    """Trace `PortableClassifier` for any batch size. Raises ExportError if that fails."""
    example = torch.zeros(2, 3, *model.preprocessing.size)
    shapes = {INPUT: {0: Dim("batch")}}
    classifier = PortableClassifier(model)
    try:
        program = torch.export.export(classifier, (example,), dynamic_shapes=shapes, strict=False)
    # timm's and custom image towers hold any code, on which torch.export may raise anything
    except Exception as error:
        raise ExportError(
            f"torch.export cannot trace the image encoder of {model.backbone.name}: "
            f"{one_line(error)}"
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # has paths of this machine
    return program


class PortableClassifier(nn.Module):
    """Map normalized images (B, 3, H, W) to logits (B, C), float32, with LoRA or prompts."""

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
