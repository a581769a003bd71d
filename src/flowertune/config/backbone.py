"""Config of the pretrained open_clip model."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field


@dataclass
class BackboneConfig:
    """Pretrained open_clip model."""

    source: str = config_field(
        MISSING, "where the weights are", choices=("open_clip", "builtin", "directory")
    )
    name: str = config_field(MISSING, "architecture, by its open_clip name")
    tag: str = config_field(MISSING, "name of the weights, printed wherever a number is printed")
    weights: str = config_field(
        "pretrained",
        "random: the architecture alone, for timing and tests",
        choices=("pretrained", "random"),
    )
    path: str | None = config_field(None, "an open_clip directory (config and safetensors)")
    text: bool = config_field(
        True, "false: the text tower means nothing, so nothing may rest on it"
    )
