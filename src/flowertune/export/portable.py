"""The classifier as one module of plain operations, which compilers of graphs can follow."""

import torch.nn.functional as F
from torch import Tensor, nn

from flowertune.export.exportable import Exportable
from flowertune.models.heads import folded
from flowertune.models.vision_tower import embed


class Portable(nn.Module):
    """Normalised images (B, 3, H, W) -> logits (B, C), float32; LoRA and prompts are inside."""

    def __init__(self, model: Exportable) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        head = folded(model.classifier.head)
        self.visual = model.classifier.visual
        self.prompts = model.classifier.prompts
        self.normalises = head.normalises
        self.register_buffer("weight", head.weight)
        self.register_buffer("bias", head.bias)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        embedding = embed(self.visual, images, self.prompts).float()
        if self.normalises:
            embedding = F.normalize(embedding, dim=1)
        return F.linear(embedding, self.weight, self.bias)
