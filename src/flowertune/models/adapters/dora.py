"""DoRA (Liu et al., 2024, arXiv:2402.09353): peft's own, on the layers that LoRA adapts.

A layer's weights are m V / ||V||, with V the frozen ones plus LoRA's update, the norm one for each
output, and the magnitudes m trained from what the norms were.
"""

from flowertune.config.model import DoraConfig
from flowertune.models.adapters.lora import PeftAdapter

DORA = PeftAdapter(DoraConfig, use_dora=True)
