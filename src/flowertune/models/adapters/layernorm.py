"""LayerNorm tuning: the gains and biases of the image tower's LayerNorms.

Zhao et al., 2023, arXiv:2312.11420, do so in language models, as does LNTuning of peft.
"""

from torch import nn

from flowertune.config.model import LayerNormConfig
from flowertune.models.adapters.tower_parameters import TowerParameters


def layer_norms(visual: nn.Module) -> list[str]:
    """Name the parameters of all LayerNorms."""
    return [
        f"{module_name}.{name}"
        for module_name, module in visual.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters()
    ]


LAYERNORM = TowerParameters(LayerNormConfig, layer_norms)
