"""Configs of the heads, from embedding to logits."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class HeadConfig:
    """Head from embedding to logits."""

    name: str = config_field(MISSING, "head")


@dataclass
class LinearHeadConfig(HeadConfig):
    """A linear layer on the embedding."""

    name: str = option("linear")
    standardize: bool = config_field(True, "by mean and deviation of the frozen training features")
    from_probe: bool = config_field(
        False, "start as the linear probe of the frozen features (LP-FT)"
    )


@dataclass
class CosineHeadConfig(HeadConfig):
    """Cosine similarity to one learned vector per class."""

    name: str = option("cosine")
    scale: float = config_field(30.0, "factor from cosine to logit", above=0)
    learn_scale: bool = config_field(True, "train the factor too")


@dataclass
class TextHeadConfig(HeadConfig):
    """A cosine head that starts as the zero-shot classifier: class vectors from prompts."""

    name: str = option("text")
    learn_scale: bool = config_field(False, "train CLIP's logit scale too")
