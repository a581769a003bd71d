"""A trained model by open_clip alone: its preprocessing in a DataLoader, its tower, the head."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flowertune.inference.predictor import Predictor
from flowertune.models.backbone import TINY
from flowertune.models.pretrained import quiet

_made: dict[str, Any] = {}  # of this process: a tower is built once


class Photos(Dataset[Tensor]):
    """Photos as open_clip's own example reads them."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(Image.open(self.paths[index]))
        return image


def answers(model: Predictor, paths: list[Path], job: dict[str, Any]) -> Iterator[str]:
    """The likeliest class of each photo."""
    if not _made:
        _made["tower"], _made["transform"] = _tower(model)
    tower, head = _made["tower"], copy.deepcopy(model.classifier.head)
    loader = DataLoader(
        Photos(paths, _made["transform"]),
        batch_size=job["batch_size"],
        num_workers=job["workers"],
        pin_memory=model.compute.asynchronous,
    )
    with torch.inference_mode(), model.compute.autocast():
        for images in loader:
            logits = head(tower(images.to(model.compute.device, non_blocking=True)))
            _, classes = logits.float().softmax(1).topk(3)
            yield from (model.class_names[first] for first in classes[:, 0].tolist())


def _tower(model: Predictor) -> tuple[nn.Module, Any]:
    """open_clip's image tower with the run's weights, and its preprocessing."""
    with quiet():
        clip, _, transform = open_clip.create_model_and_transforms(
            f"local-dir:{model.config.backbone.path or TINY}", load_weights=False
        )
    tower: nn.Module = clip.visual
    state = {name: tensor.cpu() for name, tensor in model.classifier.visual.state_dict().items()}
    for name in [name for name in state if ".attn.q_proj." in name]:
        parts = [state.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        state[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    tower.load_state_dict(state)
    return tower.eval().to(model.compute.device), transform
