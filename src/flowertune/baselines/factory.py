"""Fit a probe by the solver that its config names."""

from collections.abc import Callable

from flowertune.baselines.linear_probe import LinearProbe, ProbeInputs, fit_linear_probe
from flowertune.baselines.solvers import adamw, lbfgs, ridge
from flowertune.config.plugins import bind
from flowertune.config.probe import ProbeConfig

# By name; keyword-only parameters are keys of `probe`.
SOLVERS: dict[str, Callable[..., LinearProbe]] = {
    "lbfgs": lambda inputs, *, weight_decay: fit_linear_probe(inputs, weight_decay, lbfgs),
    "adamw": lambda inputs, *, weight_decay, epochs, lr, batch_size: fit_linear_probe(
        inputs, weight_decay, adamw(epochs, lr, batch_size, inputs.seed)
    ),
    "ridge": lambda inputs, *, weight_decay: fit_linear_probe(inputs, weight_decay, ridge),
}


def fit_probe(settings: ProbeConfig, inputs: ProbeInputs) -> LinearProbe:
    """Fit a probe, on val choosing what is not set."""
    probe: LinearProbe = bind("solver", settings.solver, SOLVERS, settings)(inputs)
    return probe
