"""Fit a probe by the solver that its config names."""

from collections.abc import Callable, Mapping

from torch import Tensor

from flowertune.baselines.linear_probe import LinearProbe, ProbeInputs, fit_linear_probe
from flowertune.baselines.ridge import ridge
from flowertune.baselines.solvers import adamw, lbfgs
from flowertune.config.plugins import bind
from flowertune.config.probe import ProbeConfig


def fit_probe(
    settings: ProbeConfig,
    features: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    classes: int,
    class_vectors: Tensor | None,
    seed: int,
) -> LinearProbe:
    """Fit a probe on the splits "train" and, where there is one, "val".

    features: split -> (N, E), frozen; labels: split -> (N,); class_vectors: (C, E), from prompts.
    """
    inputs = ProbeInputs(
        features["train"], labels["train"], features.get("val"), labels.get("val"),
        classes, class_vectors, seed,
    )  # fmt: skip
    probe: LinearProbe = bind("solver", settings.solver, SOLVERS, settings)(inputs)
    return probe


def _lbfgs(inputs: ProbeInputs, *, weight_decay: float | None) -> LinearProbe:
    return fit_linear_probe(inputs, weight_decay, lbfgs)


def _adamw(
    inputs: ProbeInputs, *, weight_decay: float | None, epochs: int, batch_size: int, lr: float
) -> LinearProbe:
    return fit_linear_probe(inputs, weight_decay, adamw(epochs, lr, batch_size, inputs.seed))


def _ridge(inputs: ProbeInputs, *, weight_decay: float | None) -> LinearProbe:
    return fit_linear_probe(inputs, weight_decay, ridge)


# By name; keyword-only parameters are keys of `probe`.
SOLVERS: dict[str, Callable[..., LinearProbe]] = {
    "lbfgs": _lbfgs,
    "adamw": _adamw,
    "ridge": _ridge,
}
