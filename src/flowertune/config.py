"""The typed schema of every key: its default, its meaning, and the values it may take.

Defaults and types live here; the YAML files under conf/ choose between them and override them.
A group with several options has one dataclass for each option, so that a key of LoRA given to
a linear probe is an error and not a wish. The code below the config boundary sees these
dataclasses and never OmegaConf's containers. Nothing heavy is imported here.
"""

from dataclasses import dataclass, field

from flowertune.keys import MISSING, key, option
from flowertune.logger_config import LoggerConfig, MlflowConfig, TensorBoardConfig, WandbConfig
from flowertune.method_config import (
    AugmentationConfig,
    BasicAugmentationConfig,
    CosineHeadConfig,
    CrossEntropyConfig,
    CutMixConfig,
    FullConfig,
    HeadConfig,
    LinearHeadConfig,
    LinearProbeConfig,
    LoraConfig,
    LossConfig,
    MixUpConfig,
    ModelConfig,
    NoAugmentationConfig,
    TextHeadConfig,
    TripletCrossEntropyConfig,
    VptConfig,
    ZeroShotConfig,
)


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
    batch_size: int = key(16, "photos in a batch, at most", at_least=1)
    accumulation: int = key(1, "batches whose gradients make one step", at_least=1)
    eval_batch_size: int = key(
        128, "photos in a batch of evaluation; a CPU takes parts of it", at_least=1
    )
    device: str = key("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = key(
        "auto",
        "auto: bf16 where the GPU has it, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: str = key(
        "auto",
        "auto: on a GPU, record a step once and replay it (CUDA graph); never: run each as it is",
        choices=("auto", "never"),
    )
    deterministic: bool = key(True, "only algorithms that give the same bits each time")
    warmup_epochs: float = key(1.0, "linear rise of the learning rates", at_least=0)
    final_lr: float = key(0.0, "end of the cosine, as a share of the peak", at_least=0, at_most=1)
    clip_norm: float | None = key(1.0, "largest norm of the gradient; null: any", above=0)
    ema: float | None = key(
        None,
        "decay a step of the averaged weights that are validated, kept and tested; null: off",
        above=0,
        below=1,
    )
    monitor: str = key(
        "top1", "picks the best epoch on val", choices=("top1", "mean_per_class", "loss")
    )
    patience: int | None = key(
        None, "stop after so many epochs without improvement; null: never", at_least=1
    )
    min_delta: float = key(0.0, "the least change that counts as improvement", at_least=0)
    checkpoint_minutes: float | None = key(
        10.0, "between savings, besides that at each epoch's end; null: that alone", above=0
    )
    adapter_scales: list[float] = key(
        [], "tried on val after training, beside 1 (WiSE-FT); []: none", at_least=0
    )


@dataclass
class DataConfig:
    """Which photos."""

    name: str = key(MISSING, "source")
    protocol: str = key(
        "official",
        "official: val selects; trainval: train on both, select nothing",
        choices=("official", "trainval"),
    )
    seed: int = key(0, "fixes splits and shots, apart from the training's seed", at_least=0)
    shots: int | None = key(None, "training photos a class; null: all", at_least=1)
    residency: str = key(
        "auto",
        "pixels on the device, or streamed to it; auto: on it if at most half of its free memory",
        choices=("auto", "device", "stream"),
    )
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
class ProbeConfig:
    """The linear probe: baseline beside every training, and what method=linear_probe is."""

    solver: str = key("lbfgs", "to convergence, or adamw for epochs", choices=("lbfgs", "adamw"))
    weight_decay: float | None = key(None, "null: chosen on val", above=0)
    epochs: int = key(40, "of adamw", at_least=1)
    batch_size: int = key(64, "of adamw", at_least=1)
    lr: float = key(0.1, "of adamw, falling by a cosine", above=0)


@dataclass
class RunConfig:
    """Where the run's directory goes."""

    root: str = key("runs", "parent of the run directories")
    name: str | None = key(None, "the directory's name; null: made from what was typed")
    resume: str = key(
        "auto",
        "auto: an unfinished run goes on, a finished one is reported; never: both are refused; "
        "restart: both are replaced",
        choices=("auto", "never", "restart"),
    )
    console: str = key(
        "auto",
        "auto: a live view on a terminal, else lines; quiet: warnings and the run's path; "
        "json: objects on stdout, the rest on stderr",
        choices=("auto", "plain", "quiet", "json"),
    )
    report: bool = key(True, "make report.html at the end; flowertune report makes it, too")


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
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    run: RunConfig = field(default_factory=RunConfig)


def needs_probe(config: Config) -> bool:
    """Whether the head is the linear probe of the frozen features, or starts as it."""
    head = config.head
    return isinstance(config.model, LinearProbeConfig) or (
        isinstance(head, LinearHeadConfig) and head.from_probe
    )


# Keys and groups that no result depends on: the same run, whatever they are.
NO_RESULT = ("run.", "logger", "data.residency", "trainer.checkpoint_minutes")

# The options of each group that have a schema of their own; conf/<group>/*.yaml rest on them.
SCHEMAS: dict[str, dict[str, type]] = {
    "backbone": {"open_clip": BackboneConfig},
    "model": {
        "lora": LoraConfig,
        "vpt": VptConfig,
        "full": FullConfig,
        "zeroshot": ZeroShotConfig,
        "linear_probe": LinearProbeConfig,
    },
    "head": {"linear": LinearHeadConfig, "cosine": CosineHeadConfig, "text": TextHeadConfig},
    "augmentation": {
        "none": NoAugmentationConfig,
        "basic": BasicAugmentationConfig,
        "mixup": MixUpConfig,
        "cutmix": CutMixConfig,
    },
    "loss": {"ce": CrossEntropyConfig, "triplet_ce": TripletCrossEntropyConfig},
    "optimizer": {"adamw": OptimizerConfig},
    "trainer": {"default": TrainerConfig},
    "data": {
        "folder": FolderConfig,
        "flowers102": Flowers102Config,
        "synthetic": SyntheticConfig,
    },
    "logger": {
        "none": LoggerConfig,
        "tensorboard": TensorBoardConfig,
        "wandb": WandbConfig,
        "mlflow": MlflowConfig,
    },
}
