"""The typed schema of what a method picks: adapter, head, augmentation, loss. See config.py."""

from dataclasses import dataclass

from flowertune.keys import MISSING, key, option


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
class ZeroShotConfig(ModelConfig):
    """Nothing is trained: the prompts' text embeddings are the class vectors."""

    name: str = option("zeroshot")


@dataclass
class LinearProbeConfig(ModelConfig):
    """Nothing is trained inside the backbone: a linear head is fitted on its frozen features."""

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
    from_probe: bool = key(False, "start as the linear probe of the frozen features (LP-FT)")


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
class MixingConfig(BasicAugmentationConfig):
    """basic, then photos are mixed in pairs: one coefficient a batch, random partners."""

    mix_off_epochs: int = key(0, "so many epochs at the end do not mix", at_least=0)


@dataclass
class MixUpConfig(MixingConfig):
    """Blended pairs (Zhang et al. 2018)."""

    name: str = option("mixup")
    alpha: float = key(0.2, "the coefficient is drawn from Beta(alpha, alpha)", above=0)


@dataclass
class CutMixConfig(MixingConfig):
    """A box of one photo in the other (Yun et al. 2019): one box a batch."""

    name: str = option("cutmix")
    alpha: float = key(1.0, "the coefficient is drawn from Beta(alpha, alpha)", above=0)


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
class TripletCrossEntropyConfig(CrossEntropyConfig):
    """Cross-entropy plus a batch-hard triplet loss (Hermans et al. 2017) on the embedding."""

    name: str = option("triplet_ce")
    weight: float = key(0.3, "factor of the triplet term", above=0)
    margin: float | int | str = key(
        1.0, "how much nearer a positive must be than a negative", above=0, choices=("soft",)
    )
    distance: str = key(
        "euclidean",
        "between embeddings",
        choices=("euclidean", "squared_euclidean", "cosine"),
    )
    normalize: bool = key(False, "embeddings of unit length first; cosine always does")
    reduction: str = key(
        "mean",
        "over all anchors with positive and negative, or those whose cost is not 0",
        choices=("mean", "nonzero_mean"),
    )
    samples_per_class: int = key(4, "K: photos of a class in a batch", at_least=2)
    classes_per_batch: int | None = key(
        None, "P; null: as many as trainer.batch_size has room for", at_least=2
    )
