"""Evaluate the baselines of a run: zero-shot and a linear probe of the same backbone."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from flowertune.baselines.linear_probe import LinearProbe
from flowertune.baselines.zero_shot import zero_shot_logits
from flowertune.config.model import model_config
from flowertune.metrics import measure, reported_split


def evaluate_baselines(
    enabled: bool,
    features: Mapping[str, Float[Tensor, "_ e"]],
    labels: Mapping[str, Int64[Tensor, "_"]],
    vectors: Float[Tensor, "c e"] | None,
    logit_scale: float,
    probe: LinearProbe | None,
) -> dict[str, Any]:
    """Return the results of each baseline, or None, by name; features and labels are by split."""
    results: dict[str, Any] = {"zeroshot": None, "linear_probe": None}
    if enabled and vectors is not None:
        results["zeroshot"] = {
            "trainable_parameters": 0,
            "splits": {
                split: asdict(measure(zero_shot_logits(x, vectors, logit_scale), labels[split]))
                for split, x in features.items()
                if split != "train"
            },
        }
    if enabled and probe is not None:
        results["linear_probe"] = {
            "trainable_parameters": probe.weight.numel() + probe.bias.numel(),
            "weight_decay": probe.weight_decay,
            "splits": {
                split: asdict(measure(probe.logits(x), labels[split]))
                for split, x in features.items()
            },
        }
    return results


def notes(
    enabled: bool,
    model: str,
    has_text: bool,
    metrics: Mapping[str, Any],
    baselines: Mapping[str, Any],
) -> list[str]:
    """Return notes for the results table: missing baselines, and a method below its probe."""
    if not enabled:
        return ["no zero-shot and no linear probe: baselines=false"]
    lines = [] if has_text else ["no zero-shot: backbone.text=false"]
    if model_config(model).is_probe:  # the same probe; only ties may differ in float32
        return lines
    split = reported_split(metrics)
    probe = baselines["linear_probe"]["splits"][split]["top1"]
    if metrics[split]["top1"] < probe:
        lines.append(f"this run is below the linear probe on {split} ({probe:.2%})")
    return lines
