"""Config of the linear probe."""

from dataclasses import dataclass

from flowertune.config.fields import config_field

SOLVERS = ["lbfgs", "adamw", "ridge"]  # plug-ins add theirs
SEEDLESS_SOLVERS = ("lbfgs", "ridge")  # the others may draw random numbers


@dataclass
class ProbeConfig:
    """Linear probe, as baseline of every training and as method=linear_probe."""

    solver: str = config_field(
        "lbfgs",
        "lbfgs: to convergence; adamw: for probe.epochs; ridge: least squares in closed form",
        choices=SOLVERS,
    )
    weight_decay: float | None = config_field(None, "weight decay; null: chosen on val", above=0)
    epochs: int = config_field(40, "epochs of the adamw solver", at_least=1)
    batch_size: int = config_field(64, "batch size of the adamw solver", at_least=1)
    lr: float = config_field(0.1, "peak learning rate of the adamw solver", above=0)
