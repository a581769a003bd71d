"""Full fine-tuning: train all parameters of the image tower and update its running statistics."""

from flowertune.config.model import FullConfig
from flowertune.models.adapters.tower_parameters import TowerParameters

FULL = TowerParameters(FullConfig, lambda visual: visual.state_dict(), trains_mode=True)
