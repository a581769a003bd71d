"""Config of the linear probe."""

from dataclasses import dataclass

from flowertune.config.fields import config_field

SOLVERS = ["lbfgs", "adamw", "ridge"]  # by name; plug-ins add theirs
SEEDLESS_SOLVERS = ("lbfgs", "ridge")  # the others draw random numbers, or may


@dataclass
class ProbeConfig:
    """Linear probe, as the baseline of every training and as method=linear_probe."""

    solver: str = config_field(
        "lbfgs",
        "to convergence, or adamw for epochs, or ridge's least squares in closed form",
        choices=SOLVERS,
    )
    weight_decay: float | None = config_field(None, "null: chosen on val", above=0)
    epochs: int = config_field(40, "of adamw", at_least=1)
    batch_size: int = config_field(64, "of adamw", at_least=1)
    lr: float = config_field(0.1, "of adamw, falling by a cosine", above=0)
