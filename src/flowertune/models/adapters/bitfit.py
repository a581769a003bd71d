"""BitFit (Ben Zaken et al., 2022, arXiv:2106.10199): train all biases of the image tower."""

from torch import nn

from flowertune.config.model import BitFitConfig
from flowertune.models.adapters.tower_parameters import TowerParameters


def biases(visual: nn.Module) -> list[str]:
    """Return the names of all biases: attention, MLP, norms and projections."""
    return [name for name, _ in visual.named_parameters() if name.endswith("bias")]


BITFIT = TowerParameters(BitFitConfig, biases)
