"""Configs of the adapters, the part trained inside the backbone."""

from dataclasses import dataclass
from typing import ClassVar

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class ModelConfig:
    """Adapter trained inside the backbone.

    `trains_backbone`: it is trained in steps; otherwise the backbone stays as it is, with a head
    of its frozen features: the linear probe where `is_probe`, else one that nothing is trained of.
    """

    trains_backbone: ClassVar[bool] = True
    is_probe: ClassVar[bool] = False

    name: str = config_field(MISSING, "adapter")

    def violation(self) -> str | None:
        """Report a value that its own range does not rule out; None if all are valid."""
        return None


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

    def violation(self) -> str | None:
        """Report a choice that leaves nothing to adapt."""
        if not self.targets:
            return "model.targets=[]: LoRA needs at least one of q, k, v, out, mlp"
        if self.layers == []:
            return "model.layers=[]: LoRA needs at least one layer; null means all"
        return None


@dataclass
class DoraConfig(LoraConfig):
    """LoRA of the weights' direction, and each output's magnitude beside it (Liu et al. 2024)."""

    name: str = option("dora")


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

    trains_backbone: ClassVar[bool] = False

    name: str = option("zeroshot")


@dataclass
class LinearProbeConfig(ModelConfig):
    """Linear probe: a linear head fitted on the features of the frozen backbone."""

    trains_backbone: ClassVar[bool] = False
    is_probe: ClassVar[bool] = True

    name: str = option("linear_probe")


@dataclass
class FullConfig(ModelConfig):
    """Full fine-tuning of the image tower."""

    name: str = option("full")


@dataclass
class LayerNormConfig(ModelConfig):
    """Gains and biases of the image tower's LayerNorms."""

    name: str = option("layernorm")


@dataclass
class BitFitConfig(ModelConfig):
    """Biases of the image tower (Ben Zaken et al. 2022)."""

    name: str = option("bitfit")


MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    config.name: config
    for config in (
        LoraConfig, DoraConfig, VptConfig, LayerNormConfig, BitFitConfig, FullConfig,
        ZeroShotConfig, LinearProbeConfig,
    )
}  # fmt: skip


def model_config(name: str) -> type[ModelConfig]:
    """Look up what a run's `model.name` says of it, by a package that may not be here any more."""
    return MODEL_CONFIGS.get(name, ModelConfig)
