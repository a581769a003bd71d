"""What stands beside every trained model: zero-shot and a linear probe of the same backbone."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flowertune.baselines.linear_probe import LinearProbe
from flowertune.baselines.zero_shot import zero_shot_logits
from flowertune.metrics import measure


def baselines(
    wanted: bool,
    features: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    vectors: Tensor | None,
    logit_scale: float,
    probe: LinearProbe | None,
) -> dict[str, Any]:
    """What results.json has under that name: each baseline's results, or None.

    features: split -> (N, E); labels: split -> (N,); vectors (C, E): from the prompts, None where
    the backbone's text means nothing.
    """
    found: dict[str, Any] = {"zeroshot": None, "linear_probe": None}
    if wanted and vectors is not None:
        found["zeroshot"] = zero_shot_results(features, labels, vectors, logit_scale)
    if wanted and probe is not None:
        found["linear_probe"] = linear_probe_results(probe, features, labels)
    return found


def zero_shot_results(
    features: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    vectors: Tensor,
    logit_scale: float,
) -> dict[str, Any]:
    """Zero-shot on every split but train, as results.json holds it.

    features: split -> (N, E); labels: split -> (N,); vectors (C, E): from the prompts.
    """
    measured = {
        split: measure(zero_shot_logits(features[split], vectors, logit_scale), labels[split])
        for split in features
        if split != "train"
    }
    return {
        "trainable_parameters": 0,
        "splits": {split: metrics.to_dict() for split, metrics in measured.items()},
    }


def linear_probe_results(
    probe: LinearProbe, features: Mapping[str, Tensor], labels: Mapping[str, Tensor]
) -> dict[str, Any]:
    """A fitted probe, as results.json holds it."""
    return {
        "trainable_parameters": probe.weight.numel() + probe.bias.numel(),
        "weight_decay": probe.weight_decay,
        "splits": {
            split: measure(probe.logits(features[split]), labels[split]).to_dict()
            for split in features
        },
    }


def notes(
    wanted: bool,
    model: str,
    has_text: bool,
    measured: Mapping[str, Any],
    baselines: Mapping[str, Any],
) -> list[str]:
    """What a reader of the table must know: a baseline that is missing, a method that is beaten."""
    if not wanted:
        return ["no zero-shot and no linear probe: baselines=false"]
    found = [] if has_text else ["no zero-shot: backbone.text=false"]
    if model == "linear_probe":  # it is that probe: float32 may yet rank a tie otherwise
        return found
    split = "test" if "test" in measured else "val"
    probe = baselines["linear_probe"]["splits"][split]["top1"]
    if measured[split]["top1"] < probe:
        found.append(f"below the linear probe of the same backbone on {split} ({probe:.2%})")
    return found
