"""Configs of the adapters, the part trained inside the backbone."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class ModelConfig:
    """Adapter trained inside the backbone."""

    name: str = config_field(MISSING, "adapter")


@dataclass
class LoraConfig(ModelConfig):
    """Low-rank updates of frozen linear layers (Hu et al. 2021)."""

    name: str = option("lora")
    rank: int = config_field(8, "rank of each update", at_least=1)
    alpha: float = config_field(16.0, "the update is scaled by alpha / rank", above=0)
    rank_stabilized: bool = config_field(False, "scale by alpha / sqrt(rank) instead")
    dropout: float = config_field(0.0, "on the input of each update", at_least=0, below=1)
    targets: list[str] = config_field(
        ["q", "k", "v", "out"],
        "layers of a block that are adapted",
        choices=("q", "k", "v", "out", "mlp"),
    )
    layers: list[int] | None = config_field(
        None, "blocks that are adapted, from 0; null: all", at_least=0
    )


@dataclass
class VptConfig(ModelConfig):
    """Visual prompt tuning: trained tokens beside the image's (Jia et al. 2022)."""

    name: str = option("vpt")
    num_prompts: int = config_field(16, "tokens in a block", at_least=1)
    depth: int | str = config_field(
        "deep",
        "how many blocks get prompts, from the first (shallow 1, deep all)",
        choices=("shallow", "deep"),
        at_least=1,
    )
    shared: bool = config_field(False, "the same prompts in each of these blocks")
    dropout: float = config_field(0.0, "on the prompts", at_least=0, below=1)
    init: str = config_field(
        "vpt_uniform",
        "uniform as in the paper, or normal of deviation 0.02",
        choices=("vpt_uniform", "normal"),
    )
    position: str = config_field(
        "after_cls", "after the class token, or at the end", choices=("after_cls", "end")
    )
    before_ln_pre: bool = config_field(
        True, "the first block's prompts go through CLIP's first norm"
    )


@dataclass
class ZeroShotConfig(ModelConfig):
    """Zero-shot: no training, the prompts' text embeddings are the class vectors."""

    name: str = option("zeroshot")


@dataclass
class LinearProbeConfig(ModelConfig):
    """Linear probe: a linear head fitted on the features of the frozen backbone."""

    name: str = option("linear_probe")


@dataclass
class FullConfig(ModelConfig):
    """Full fine-tuning of the image tower."""

    name: str = option("full")
