"""Config of the training loop."""

from dataclasses import dataclass

from flowertune.config.fields import config_field


@dataclass
class TrainerConfig:
    """Length, batches, precision and device of a training."""

    epochs: int = config_field(8, "passes over the training photos", at_least=1)
    batch_size: int = config_field(16, "photos in a batch, at most", at_least=1)
    accumulation: int = config_field(1, "batches whose gradients make one step", at_least=1)
    eval_batch_size: int = config_field(
        128, "photos in a batch of evaluation; a CPU takes parts of it", at_least=1
    )
    device: str = config_field("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = config_field(
        "auto",
        "auto: bf16 where the GPU has it, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: str = config_field(
        "auto",
        "auto: on a GPU, record a step once and replay it (CUDA graph); never: run each as it is",
        choices=("auto", "never"),
    )
    deterministic: bool = config_field(True, "only algorithms that give the same bits each time")
    warmup_epochs: float = config_field(1.0, "linear rise of the learning rates", at_least=0)
    final_lr: float = config_field(
        0.0, "end of the cosine, as a share of the peak", at_least=0, at_most=1
    )
    clip_norm: float | None = config_field(1.0, "largest norm of the gradient; null: any", above=0)
    ema: float | None = config_field(
        None,
        "decay a step of the averaged weights that are validated, kept and tested; null: off",
        above=0,
        below=1,
    )
    monitor: str = config_field(
        "top1", "picks the best epoch on val", choices=("top1", "mean_per_class", "loss")
    )
    patience: int | None = config_field(
        None, "stop after so many epochs without improvement; null: never", at_least=1
    )
    min_delta: float = config_field(0.0, "the least change that counts as improvement", at_least=0)
    checkpoint_minutes: float | None = config_field(
        10.0, "between savings, besides that at each epoch's end; null: that alone", above=0
    )
    adapter_scales: list[float] = config_field(
        [], "tried on val after training, beside 1 (WiSE-FT); []: none", at_least=0
    )
