"""Look up adapters by name."""

from flowertune.config.model import ModelConfig
from flowertune.config.plugins import find
from flowertune.models.adapters.bitfit import BITFIT
from flowertune.models.adapters.dora import DORA
from flowertune.models.adapters.full import FULL
from flowertune.models.adapters.layernorm import LAYERNORM
from flowertune.models.adapters.lora import LORA
from flowertune.models.adapters.none import LINEAR_PROBE, ZEROSHOT
from flowertune.models.adapters.protocol import Adapter
from flowertune.models.adapters.vpt import VPT

ADAPTERS: dict[str, Adapter] = {
    "lora": LORA,
    "dora": DORA,
    "vpt": VPT,
    "layernorm": LAYERNORM,
    "bitfit": BITFIT,
    "full": FULL,
    "linear_probe": LINEAR_PROBE,
    "zeroshot": ZEROSHOT,
}


def find_adapter(settings: ModelConfig) -> Adapter:
    """Return the built-in or plug-in adapter that `settings.name` names."""
    adapter: Adapter = find("model", settings.name, ADAPTERS)
    return adapter
