"""Measure the baselines of every trained model: zero-shot and a linear probe of its backbone."""

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
    """Evaluate the baselines; the results of each by its name in results.json, or None.

    features and labels: by split; vectors: from the prompts, None where the backbone's text means
    nothing.
    """
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
    """List what a reader of the table must know: a missing baseline, a method that is beaten."""
    if not enabled:
        return ["no zero-shot and no linear probe: baselines=false"]
    lines = [] if has_text else ["no zero-shot: backbone.text=false"]
    if model_config(model).is_probe:  # it is that probe: float32 may yet rank a tie otherwise
        return lines
    split = reported_split(metrics)
    probe = baselines["linear_probe"]["splits"][split]["top1"]
    if metrics[split]["top1"] < probe:
        lines.append(f"below the linear probe of the same backbone on {split} ({probe:.2%})")
    return lines
