"""Trace the classifier with torch.export for any batch size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from flowertune.errors import ExportError, one_line
from flowertune.inference.predictor import Predictor
from flowertune.models.vision_tower import embed

INPUT, OUTPUT = "images", "logits"


def trace(model: Predictor) -> ExportedProgram:
    """Trace `PortableClassifier`: images (B, 3, H, W) float32, B from 1, to logits (B, C).

    Raises:
        ExportError: torch.export cannot follow this image tower.
    """
    classifier = PortableClassifier(model)
    example = torch.zeros(2, 3, *model.preprocessing.size)
    try:
        program = torch.export.export(
            classifier,
            (example,),
            dynamic_shapes={INPUT: {0: Dim("batch")}},
            strict=False,
        )
    # Towers of timm and of open_clip's users hold any code, and torch.export fails on it in as
    # many ways.
    except Exception as error:
        name = model.backbone.name
        raise ExportError(
            f"torch.export cannot follow the image tower of {name}: {one_line(error)}"
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
