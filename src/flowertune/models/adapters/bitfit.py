"""BitFit (Ben Zaken et al., 2022, arXiv:2106.10199): every bias of the image tower."""

from torch import nn

from flowertune.config.model import BitFitConfig
from flowertune.models.adapters.tower_parameters import TowerParameters


def biases(visual: nn.Module) -> list[str]:
    """Name the biases of all layers: attention, MLP, norms and projections."""
    return [name for name, _ in visual.named_parameters() if name.endswith("bias")]


BITFIT = TowerParameters(BitFitConfig, biases)
