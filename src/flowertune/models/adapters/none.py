"""No adapter: the image tower stays unchanged, and the head is fitted to its frozen features."""

from flowertune.config.model import LinearProbeConfig, ZeroShotConfig
from flowertune.models.adapters.tower_parameters import TowerParameters

LINEAR_PROBE = TowerParameters(LinearProbeConfig, lambda visual: ())
ZEROSHOT = TowerParameters(ZeroShotConfig, lambda visual: ())
