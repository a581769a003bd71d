"""Configs of the heads, from embedding to logits."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class HeadConfig:
    """Head from embedding to logits."""

    name: str = config_field(MISSING, "name of the head")


@dataclass
class LinearHeadConfig(HeadConfig):
    """Linear layer on the embedding."""

    name: str = option("linear")
    standardize: bool = config_field(True, "standardize by mean and std of frozen train features")
    from_probe: bool = config_field(False, "start from the linear probe of frozen features (LP-FT)")


@dataclass
class CosineHeadConfig(HeadConfig):
    """Cosine similarity to one learned vector per class."""

    name: str = option("cosine")
    scale: float = config_field(30.0, "logit scale, multiplied with the cosine", above=0)
    learn_scale: bool = config_field(True, "train the logit scale")


@dataclass
class TextHeadConfig(HeadConfig):
    """Cosine head that starts from the zero-shot class vectors."""

    name: str = option("text")
    learn_scale: bool = config_field(False, "train CLIP's logit scale")
