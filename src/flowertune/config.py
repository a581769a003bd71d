"""The typed schema of every key: its default, its meaning, and the values it may take.

Defaults and types live here; the YAML files under conf/ choose between them and override them.
A group with several options has one dataclass for each option, so that a key of LoRA given to
a linear probe is an error and not a wish. The code below the config boundary sees these
dataclasses and never OmegaConf's containers. Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Any

from flowertune.errors import Refused
from flowertune.keys import first_violation, key, option, shown

MISSING: Any = "???"  # omegaconf's own mark, spelt out so that this file imports nothing


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


@dataclass
class ModelConfig:
    """What is trained inside the backbone."""

    name: str = key(MISSING, "adapter")


@dataclass
class LoraConfig(ModelConfig):
    """Low-rank updates of frozen linear layers (Hu et al. 2021)."""

    name: str = option("lora")
    rank: int = key(8, "rank of each update", at_least=1)
    alpha: float = key(16.0, "the update is scaled by alpha / rank", above=0)
    rank_stabilized: bool = key(False, "scale by alpha / sqrt(rank) instead")
    dropout: float = key(0.0, "on the input of each update", at_least=0, below=1)
    targets: list[str] = key(
        ["q", "k", "v", "out"],
        "layers of a block that are adapted",
        choices=("q", "k", "v", "out", "mlp"),
    )
    layers: list[int] | None = key(None, "blocks that are adapted, from 0; null: all", at_least=0)


@dataclass
class VptConfig(ModelConfig):
    """Visual prompt tuning: trained tokens beside the image's (Jia et al. 2022)."""

    name: str = option("vpt")
    num_prompts: int = key(16, "tokens in a block", at_least=1)
    depth: int | str = key(
        "deep",
        "how many blocks get prompts, from the first (shallow 1, deep all)",
        choices=("shallow", "deep"),
        at_least=1,
    )
    shared: bool = key(False, "the same prompts in each of these blocks")
    dropout: float = key(0.0, "on the prompts", at_least=0, below=1)
    init: str = key(
        "vpt_uniform",
        "uniform as in the paper, or normal of deviation 0.02",
        choices=("vpt_uniform", "normal"),
    )
    position: str = key(
        "after_cls", "after the class token, or at the end", choices=("after_cls", "end")
    )
    before_ln_pre: bool = key(True, "the first block's prompts go through CLIP's first norm")


@dataclass
class LinearProbeConfig(ModelConfig):
    """Nothing is trained inside the backbone: a head on frozen features."""

    name: str = option("linear_probe")


@dataclass
class FullConfig(ModelConfig):
    """The whole image tower is trained."""

    name: str = option("full")


@dataclass
class HeadConfig:
    """From embedding to logits."""

    name: str = key(MISSING, "head")


@dataclass
class LinearHeadConfig(HeadConfig):
    """A linear layer on the embedding."""

    name: str = option("linear")
    standardize: bool = key(True, "by mean and deviation of the frozen training features")


@dataclass
class CosineHeadConfig(HeadConfig):
    """Cosine similarity to one learnt vector a class."""

    name: str = option("cosine")
    scale: float = key(30.0, "factor from cosine to logit", above=0)
    learn_scale: bool = key(True, "train the factor too")


@dataclass
class TextHeadConfig(HeadConfig):
    """A cosine head that starts as the zero-shot classifier: class vectors from prompts."""

    name: str = option("text")
    learn_scale: bool = key(False, "train CLIP's logit scale too")


@dataclass
class AugmentationConfig:
    """What happens to a training photo, drawn anew each time it is seen."""

    name: str = key(MISSING, "augmentation")


@dataclass
class NoAugmentationConfig(AugmentationConfig):
    """The evaluation pixels."""

    name: str = option("none")


@dataclass
class BasicAugmentationConfig(AugmentationConfig):
    """Random resized crop, horizontal flip, colour jitter."""

    name: str = option("basic")
    scale: list[float] = key([0.35, 1.0], "least and most area of a crop", above=0, at_most=1)
    ratio: list[float] = key([0.75, 4 / 3], "least and most width : height of a crop", above=0)
    interpolation: str = key("bicubic", "of the crop", choices=("bicubic", "bilinear"))
    flip: float = key(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    brightness: float = key(0.0, "factor from 1 - x to 1 + x", at_least=0, at_most=1)
    contrast: float = key(0.0, "factor from 1 - x to 1 + x", at_least=0, at_most=1)
    saturation: float = key(0.0, "factor from 1 - x to 1 + x", at_least=0, at_most=1)


@dataclass
class MixUpConfig(BasicAugmentationConfig):
    """basic, then MixUp (Zhang et al. 2018): one coefficient a batch, random partners."""

    name: str = option("mixup")
    alpha: float = key(0.2, "the coefficient is drawn from Beta(alpha, alpha)", above=0)


@dataclass
class LossConfig:
    """What is minimised."""

    name: str = key(MISSING, "loss")


@dataclass
class CrossEntropyConfig(LossConfig):
    """Cross-entropy, with soft targets where photos are mixed."""

    name: str = option("ce")
    label_smoothing: float = key(0.0, "share of the target spread evenly", at_least=0, below=1)


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019), with rates of their own for adapter and head."""

    name: str = option("adamw")
    lr: float = key(1e-3, "peak learning rate of the adapter", above=0)
    head_lr: float = key(5e-3, "peak learning rate of the head", above=0)
    weight_decay: float = key(1e-2, "of the adapter", at_least=0)
    head_weight_decay: float = key(1e-2, "of the head", at_least=0)
    beta1: float = key(0.9, "decay of the gradient's mean", at_least=0, below=1)
    beta2: float = key(0.999, "decay of its square", at_least=0, below=1)
    eps: float = key(1e-8, "added to the denominator", above=0)


@dataclass
class TrainerConfig:
    """How long, how large, how precisely, where."""

    epochs: int = key(8, "passes over the training photos", at_least=1)
    batch_size: int = key(32, "photos in a batch", at_least=1)
    accumulation: int = key(1, "batches whose gradients make one step", at_least=1)
    eval_batch_size: int = key(128, "photos in a batch of evaluation", at_least=1)
    device: str = key("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = key(
        "auto",
        "auto: bf16 where the GPU has it, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    deterministic: bool = key(True, "only algorithms that give the same bits each time")
    warmup_epochs: float = key(1.0, "linear rise of the learning rates", at_least=0)
    final_lr: float = key(0.0, "end of the cosine, as a share of the peak", at_least=0, at_most=1)
    clip_norm: float | None = key(1.0, "largest norm of the gradient; null: any", above=0)
    monitor: str = key(
        "top1", "picks the best epoch on val", choices=("top1", "mean_per_class", "loss")
    )
    patience: int | None = key(
        None, "stop after so many epochs without improvement; null: never", at_least=1
    )
    min_delta: float = key(0.0, "the least change that counts as improvement", at_least=0)


@dataclass
class DataConfig:
    """Which photos."""

    name: str = key(MISSING, "source")
    seed: int = key(0, "fixes splits and shots, apart from the training's seed", at_least=0)
    shots: int | None = key(None, "training photos a class; null: all", at_least=1)
    bad_files: str = key("stop", "files that are no photos", choices=("stop", "skip"))
    templates: list[str] = key(["a photo of a {name}."], "prompts; {name} and {description}")


@dataclass
class FolderConfig(DataConfig):
    """Class folders: train/ and val/ (and test/) of them, or one level, split 60/20/20."""

    name: str = option("folder")
    root: str = key(MISSING, "the folder")


@dataclass
class Flowers102Config(DataConfig):
    """Oxford Flowers-102 with its official splits; downloaded where it is missing."""

    name: str = option("flowers102")
    root: str | None = key(None, "where it lies; null: in the user's cache folder")
    url: str = key(MISSING, "where to fetch its three files, without a slash at the end")


@dataclass
class SyntheticConfig(DataConfig):
    """Flowers drawn by the program, for machines without network or photos."""

    name: str = option("synthetic")
    train_per_class: int = key(32, "pictures a species", at_least=1)
    val_per_class: int = key(16, "pictures a species", at_least=1)
    test_per_class: int = key(100, "pictures a species", at_least=1)


@dataclass
class RunConfig:
    """Where the run's directory goes."""

    root: str = key("runs", "parent of the run directories")
    name: str | None = key(None, "the directory's name; null: made from what was typed")


@dataclass
class Config:
    """One training, whole."""

    method: str = key(MISSING, "the preset's name, for tables")
    seed: int = key(42, "fixes weights, order, crops and every other draw", at_least=0)
    baselines: bool = key(True, "zero-shot and linear probe beside the training")
    backbone: BackboneConfig = MISSING
    model: ModelConfig = MISSING
    head: HeadConfig = MISSING
    augmentation: AugmentationConfig = MISSING
    loss: LossConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    trainer: TrainerConfig = MISSING
    data: DataConfig = MISSING
    run: RunConfig = field(default_factory=RunConfig)


# The options of each group that have a schema of their own; conf/<group>/*.yaml rest on them.
SCHEMAS: dict[str, dict[str, type]] = {
    "backbone": {"open_clip": BackboneConfig},
    "model": {
        "lora": LoraConfig,
        "vpt": VptConfig,
        "linear_probe": LinearProbeConfig,
        "full": FullConfig,
    },
    "head": {"linear": LinearHeadConfig, "cosine": CosineHeadConfig, "text": TextHeadConfig},
    "augmentation": {
        "none": NoAugmentationConfig,
        "basic": BasicAugmentationConfig,
        "mixup": MixUpConfig,
    },
    "loss": {"ce": CrossEntropyConfig},
    "optimizer": {"adamw": OptimizerConfig},
    "trainer": {"default": TrainerConfig},
    "data": {
        "folder": FolderConfig,
        "flowers102": Flowers102Config,
        "synthetic": SyntheticConfig,
    },
}


def check(config: Config) -> None:
    """Every value against its range, then the values that must fit together.

    Raises:
        Refused: with the key, its value and what is allowed.
    """
    violation = first_violation(config)
    if violation is not None:
        raise Refused(violation)
    _check_together(config)


def _check_together(config: Config) -> None:
    if config.backbone.source == "directory" and not config.backbone.path:
        raise Refused("backbone.path: missing; give an open_clip directory (backbone.path=DIR)")
    if config.backbone.source != "directory" and config.backbone.path is not None:
        raise Refused(
            f"backbone.path={config.backbone.path}: is read with backbone=local alone; add that"
        )
    if getattr(config.data, "root", None) == "":
        raise Refused("data.root: empty; give a folder (data.root=DIR)")
    if isinstance(config.head, TextHeadConfig) and not config.backbone.text:
        raise Refused("head=text: needs a text tower that means something; backbone.text is false")
    if config.trainer.warmup_epochs > config.trainer.epochs:
        raise Refused(
            f"trainer.warmup_epochs={config.trainer.warmup_epochs:g}: "
            f"at most trainer.epochs, which is {config.trainer.epochs}"
        )
    if isinstance(config.model, LoraConfig) and not config.model.targets:
        raise Refused("model.targets=[]: LoRA needs at least one of q, k, v, out, mlp")
    if isinstance(config.model, LoraConfig) and config.model.layers == []:
        raise Refused("model.layers=[]: LoRA needs at least one layer; null means all")
    if isinstance(config.augmentation, BasicAugmentationConfig):
        for name in ("scale", "ratio"):
            span = getattr(config.augmentation, name)
            if len(span) != 2 or span[0] > span[1]:
                raise Refused(f"augmentation.{name}={shown(span)}: must be [least,most]")
