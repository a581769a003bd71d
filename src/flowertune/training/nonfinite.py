"""Stop a training before a loss or gradient that is not finite touches a weight."""

import math

from jaxtyping import Float
from torch import Tensor

from flowertune.errors import TrainingError


class NonFiniteError(TrainingError):
    """The loss or gradient of a step is not finite; the weights are those before it."""


def check_finite(
    loss: Float[Tensor, ""] | float, norm: Float[Tensor, ""] | float, where: str, precision: str
) -> None:
    """Raise NonFiniteError, naming the step `where`, unless its loss and gradient are finite."""
    if not math.isfinite(loss + norm):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise NonFiniteError(
            nonfinite_message(f"{what} of {where}", precision)
            + "; the weights were left as they were before it"
        )


def nonfinite_message(what: str, precision: str) -> str:
    """Explain the failure of a training and what a person may try."""
    hint = ", or trainer.precision=fp32" if precision == "fp16" else ""
    return f"the {what} is not finite: try a lower optimizer.lr and optimizer.head_lr{hint}"
