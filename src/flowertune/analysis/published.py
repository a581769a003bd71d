"""Reference results: notebooks with ViT-B/32 openai on Flowers-102, seed 42.

They state alpha, margin, weight, number of prompts, the prompts' learning rate and the seed. They
do not state LoRA's rank, the head, batch size, epochs and patience; these are flowertune's own.
"""

from collections.abc import Mapping
from typing import Any

REFERENCE_VALUES = {
    "backbone.source": "open_clip",
    "backbone.weights": "pretrained",
    "backbone.name": "ViT-B-32-quickgelu",
    "backbone.tag": "openai",
    "data.name": "flowers102",
    "data.protocol": "official",
    "data.shots": None,
}
DESCRIPTION = "published numbers are for Flowers-102, ViT-B/32 openai"
TOP1 = {  # method -> split -> top-1
    "mixup": {"val": 0.9088, "test": 0.9109},
    "triplet": {"val": 0.9098, "test": 0.9093},
    "vpt": {"val": 0.9363, "test": 0.8798},
}


def applies(values: Mapping[str, Any]) -> bool:
    """Whether a run with these config values is comparable with the reference."""
    return all(values[key] == value for key, value in REFERENCE_VALUES.items())


def published_top1(method: str, split: str, values: Mapping[str, Any]) -> float | None:
    """Reference top-1 of a method; None if there is none for such a run."""
    return TOP1.get(method, {}).get(split) if applies(values) else None
