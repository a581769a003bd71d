"""The linear probe."""

from dataclasses import dataclass

from flowertune.config.fields import key


@dataclass
class ProbeConfig:
    """The linear probe: baseline beside every training, and what method=linear_probe is."""

    solver: str = key("lbfgs", "to convergence, or adamw for epochs", choices=("lbfgs", "adamw"))
    weight_decay: float | None = key(None, "null: chosen on val", above=0)
    epochs: int = key(40, "of adamw", at_least=1)
    batch_size: int = key(64, "of adamw", at_least=1)
    lr: float = key(0.1, "of adamw, falling by a cosine", above=0)
