"""The pretrained open_clip model."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, key


@dataclass
class BackboneConfig:
    """The pretrained open_clip model."""

    source: str = key(
        MISSING, "where the weights are", choices=("open_clip", "builtin", "directory")
    )
    name: str = key(MISSING, "architecture, by its open_clip name")
    tag: str = key(MISSING, "name of the weights, printed wherever a number is printed")
    weights: str = key(
        "pretrained",
        "random: the architecture alone, for timing and tests",
        choices=("pretrained", "random"),
    )
    path: str | None = key(None, "an open_clip directory (config and safetensors)")
    text: bool = key(True, "false: the text tower means nothing, so nothing may rest on it")
