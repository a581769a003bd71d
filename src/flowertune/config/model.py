"""Configs of the adapters: what is trained inside the backbone."""

from dataclasses import dataclass
from typing import ClassVar

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class ModelConfig:
    """Adapter trained inside the backbone.

    `trains_backbone`: trained in steps. Otherwise the backbone stays frozen; `is_probe` then fits
    a linear probe on its features, and without it nothing is trained.
    """

    trains_backbone: ClassVar[bool] = True
    is_probe: ClassVar[bool] = False

    name: str = config_field(MISSING, "name of the adapter")

    def violation(self) -> str | None:
        """Report an invalid value that no range rules out; None if all are valid."""
        return None


@dataclass
class LoraConfig(ModelConfig):
    """Low-rank updates of frozen linear layers (Hu et al. 2021)."""

    name: str = option("lora")
    rank: int = config_field(8, "rank of the low-rank updates", at_least=1)
    alpha: float = config_field(16.0, "scaling: updates are multiplied by alpha / rank", above=0)
    rank_stabilized: bool = config_field(False, "scale by alpha / sqrt(rank) instead")
    dropout: float = config_field(0.0, "dropout on the input of the updates", at_least=0, below=1)
    targets: list[str] = config_field(
        ["q", "k", "v", "out"],
        "layers to adapt in each block",
        choices=("q", "k", "v", "out", "mlp"),
    )
    layers: list[int] | None = config_field(None, "blocks to adapt, from 0; null: all", at_least=0)

    def violation(self) -> str | None:
        """Report empty targets or layers."""
        if not self.targets:
            return "model.targets=[]: LoRA needs at least one of q, k, v, out, mlp"
        if self.layers == []:
            return "model.layers=[]: LoRA needs at least one layer; null means all"
        return None


@dataclass
class DoraConfig(LoraConfig):
    """LoRA on the direction of the weights, plus a trained magnitude (Liu et al. 2024)."""

    name: str = option("dora")


@dataclass
class VptConfig(ModelConfig):
    """Visual prompt tuning: learned tokens added to the image tokens (Jia et al. 2022)."""

    name: str = option("vpt")
    num_prompts: int = config_field(16, "prompt tokens per block", at_least=1)
    depth: int | str = config_field(
        "deep",
        "number of blocks with prompts, from the first; shallow: 1, deep: all",
        choices=("shallow", "deep"),
        at_least=1,
    )
    shared: bool = config_field(False, "share the same prompts across these blocks")
    dropout: float = config_field(0.0, "dropout on the prompts", at_least=0, below=1)
    init: str = config_field(
        "vpt_uniform", "as in the paper, or normal with std 0.02", choices=("vpt_uniform", "normal")
    )
    position: str = config_field(
        "after_cls", "place prompts after the class token or last", choices=("after_cls", "end")
    )
    before_ln_pre: bool = config_field(True, "apply CLIP's ln_pre to the first block's prompts")


@dataclass
class ZeroShotConfig(ModelConfig):
    """Zero-shot classification by the text embeddings of the prompts; nothing is trained."""

    trains_backbone: ClassVar[bool] = False

    name: str = option("zeroshot")


@dataclass
class LinearProbeConfig(ModelConfig):
    """Linear probe: linear head fitted on the features of the frozen backbone."""

    trains_backbone: ClassVar[bool] = False
    is_probe: ClassVar[bool] = True

    name: str = option("linear_probe")


@dataclass
class FullConfig(ModelConfig):
    """Full fine-tuning of the image encoder."""

    name: str = option("full")


@dataclass
class LayerNormConfig(ModelConfig):
    """Scales and biases of the image encoder's LayerNorms."""

    name: str = option("layernorm")


@dataclass
class BitFitConfig(ModelConfig):
    """Biases of the image encoder (Ben Zaken et al. 2022)."""

    name: str = option("bitfit")


MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    config.name: config
    for config in (
        LoraConfig, DoraConfig, VptConfig, LayerNormConfig, BitFitConfig, FullConfig,
        ZeroShotConfig, LinearProbeConfig,
    )
}  # fmt: skip


def model_config(name: str) -> type[ModelConfig]:
    """Look up the config of a run's `model.name`; the base class if its plug-in is missing."""
    return MODEL_CONFIGS.get(name, ModelConfig)
