"""Config of the optimizer."""

from dataclasses import dataclass

from flowertune.config.fields import config_field, option


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019), with separate rates for adapter and head."""

    name: str = option("adamw")
    lr: float = config_field(1e-3, "peak learning rate of the adapter", above=0)
    head_lr: float = config_field(5e-3, "peak learning rate of the head", above=0)
    weight_decay: float = config_field(1e-2, "weight decay of the adapter", at_least=0)
    head_weight_decay: float = config_field(1e-2, "weight decay of the head", at_least=0)
    beta1: float = config_field(
        0.9, "decay of the running mean of the gradient", at_least=0, below=1
    )
    beta2: float = config_field(0.999, "decay of the mean squared gradient", at_least=0, below=1)
    eps: float = config_field(1e-8, "constant added to the denominator", above=0)
