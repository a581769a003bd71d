"""Config of the pretrained open_clip model."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field


@dataclass
class BackboneConfig:
    """Pretrained open_clip model."""

    source: str = config_field(
        MISSING,
        "open_clip: name and tag; builtin: the bundled CLIP; directory: path",
        choices=("open_clip", "builtin", "directory"),
    )
    name: str = config_field(MISSING, "open_clip name of the architecture")
    tag: str = config_field(MISSING, "name of the weights, shown with every result")
    weights: str = config_field(
        "pretrained", "random weights are for timing and tests", choices=("pretrained", "random")
    )
    path: str | None = config_field(None, "open_clip directory, for backbone=local")
    text: bool = config_field(True, "false: no usable text encoder; no zero-shot, no head=text")
