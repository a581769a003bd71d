"""LayerNorm tuning: train the gains and biases of all LayerNorms in the image tower.

The same method as peft's LNTuning and, for language models, Zhao et al., 2023, arXiv:2312.11420.
"""

from torch import nn

from flowertune.config.model import LayerNormConfig
from flowertune.models.adapters.tower_parameters import TowerParameters


def layer_norms(visual: nn.Module) -> list[str]:
    """Return the names of all LayerNorm parameters."""
    return [
        f"{module_name}.{name}"
        for module_name, module in visual.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters()
    ]


LAYERNORM = TowerParameters(LayerNormConfig, layer_norms)
