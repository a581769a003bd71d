"""Build AdamW for adapter and head and schedule the learning rates."""

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flowertune.config.optimizer import OptimizerConfig


def build_optimizer(
    parameters: Mapping[str, Sequence[nn.Parameter]],
    config: OptimizerConfig,
    device: torch.device,
    *,
    recorded: bool,
) -> torch.optim.AdamW:
    """Build AdamW with separate learning rates and weight decay for adapter and head.

    `parameters`: trainable parameters of "adapter" and "head". Vectors and scalars (biases, gains,
    logit scales) are not decayed. Every group stores its peak rate as "peak_lr". If steps are
    `recorded` as CUDA graphs, the rates are scalar tensors, so that a replay sees changes.
    """
    rates = {"adapter": config.lr, "head": config.head_lr}
    decays = {"adapter": config.weight_decay, "head": config.head_weight_decay}
    groups = [
        {
            "name": name,
            "params": params,
            "peak_lr": rates[name],
            "lr": torch.tensor(rates[name], device=device) if recorded else rates[name],
            "weight_decay": decay,
        }
        for name, group_parameters in parameters.items()
        for params, decay in [
            ([p for p in group_parameters if p.ndim > 1], decays[name]),
            ([p for p in group_parameters if p.ndim <= 1], 0.0),
        ]
        if params
    ]
    if recorded:  # AdamW warns about the first steps, which are not recorded yet
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable")
    return torch.optim.AdamW(
        groups,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=device.type in ("cpu", "cuda"),
        capturable=recorded and device.type == "cuda",
    )


def schedule(step: int, total_steps: int, warmup_steps: int, final: float) -> float:
    """Learning rate in step `step` (from 0) as a fraction of the peak.

    Linear warm-up, then half a cosine down to `final` in the last step. Loshchilov & Hutter 2017,
    arXiv:1608.03983.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set every group to `factor` times its peak rate; returns the rates by group name."""
    rates = {}
    for group in optimizer.param_groups:
        rate = rates[group["name"]] = factor * group["peak_lr"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return rates
