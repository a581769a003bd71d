"""Config of the training loop."""

from dataclasses import dataclass

from flowertune.config.fields import config_field


@dataclass
class TrainerConfig:
    """Epochs, batches, device, precision and schedule of a training."""

    epochs: int = config_field(8, "passes over the training images", at_least=1)
    batch_size: int = config_field(16, "maximum number of images per training batch", at_least=1)
    accumulation: int = config_field(1, "gradient accumulation: batches per step", at_least=1)
    eval_batch_size: int = config_field(
        128, "images per evaluation batch; split further on a CPU", at_least=1
    )
    device: str = config_field(
        "auto", "device; auto: cuda, then mps, then cpu", choices=("auto", "cpu", "cuda", "mps")
    )
    precision: str = config_field(
        "auto", "auto: bf16 if the GPU has it, or fp32", choices=("auto", "fp32", "bf16", "fp16")
    )
    compile: str = config_field(
        "auto",
        "auto: on a GPU, record a step once and replay it (CUDA graph); never: do not record",
        choices=("auto", "never"),
    )
    deterministic: bool = config_field(True, "use only deterministic algorithms")
    warmup_epochs: float = config_field(1.0, "epochs of linear learning rate warmup", at_least=0)
    final_lr: float = config_field(
        0.0, "final learning rate as a fraction of the peak", at_least=0, at_most=1
    )
    clip_norm: float | None = config_field(
        1.0, "gradient clipping norm; null disables clipping", above=0
    )
    ema: float | None = config_field(
        None, "decay per step of weight averaging (EMA); null disables it", above=0, below=1
    )
    monitor: str = config_field(
        "top1", "val metric that selects the best epoch", choices=("top1", "mean_per_class", "loss")
    )
    patience: int | None = config_field(
        None, "epochs without improvement before training stops; null: never stop", at_least=1
    )
    min_delta: float = config_field(0.0, "smallest change that counts as improvement", at_least=0)
    checkpoint_minutes: float | None = config_field(
        10.0, "minutes between checkpoints; null: only at the end of each epoch", above=0
    )
    adapter_scales: list[float] = config_field(
        [], "factors of the adapter to try on val (WiSE-FT), besides 1; []: none", at_least=0
    )
