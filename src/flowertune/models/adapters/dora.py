"""DoRA (Liu et al., 2024, arXiv:2402.09353), computed by peft on the layers that LoRA adapts.

The weights of a layer are m V / ||V||. V is the frozen weights plus LoRA's update, norms are per
output, and the trainable magnitudes m start as the norms of the frozen weights.
"""

from flowertune.config.model import DoraConfig
from flowertune.models.adapters.lora import PeftAdapter

DORA = PeftAdapter(DoraConfig, use_dora=True)
