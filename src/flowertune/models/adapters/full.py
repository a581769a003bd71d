"""Full fine-tuning: every parameter of the image tower, its running statistics too."""

from flowertune.config.model import FullConfig
from flowertune.models.adapters.tower_parameters import TowerParameters

FULL = TowerParameters(FullConfig, lambda visual: visual.state_dict(), trains_mode=True)
