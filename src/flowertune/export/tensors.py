"""Write tensors with safetensors; the head's file is the same in every format."""

from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch.nn.functional as F
from torch import Tensor

from flowertune.inference.predictor import Predictor

HEAD = "head.safetensors"


def write(path: Path, state: Mapping[str, Tensor], **metadata: str) -> None:
    """Write a safetensors file with default permissions (its own writer gives fewer)."""
    path.write_bytes(safetensors.torch.save(dict(state), {"format": "pt", **metadata}))


def write_head(model: Predictor, folder: Path) -> dict[str, str]:
    """Write head.safetensors, weight (C, E) and bias (C,); return its name and description."""
    head = model.classifier.head.as_linear()
    state = {"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}
    write(folder / HEAD, state, normalize=str(head.normalizes).lower())
    embedding = "embedding, made one of unit length" if head.normalizes else "embedding"
    return {HEAD: f"the head: logits = {embedding} @ weight.T + bias"}


def read_head(model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the exported head: from embedding (B, E) to logits (B, C)."""
    head = safetensors.torch.load_file(folder / HEAD)
    normalizes = model.classifier.head.as_linear().normalizes

    def logits(embedding: Tensor) -> Tensor:
        embedding = F.normalize(embedding) if normalizes else embedding
        return F.linear(embedding, head["weight"], head["bias"])

    return logits
