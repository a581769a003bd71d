"""Zero-shot classification: a class is represented by the mean of its prompt embeddings.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1.4; computed like open_clip's
`build_zero_shot_classifier`.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def class_vectors(
    encode_text: Callable[[list[str]], Float[Tensor, "n e"]], prompts: Sequence[Sequence[str]]
) -> Float[Tensor, "c e"]:
    """Return the normalized mean of each class's normalized prompt embeddings, in float32.

    `encode_text` maps prompts to embeddings of any length; `prompts` has one list per class.
    """
    flat = [prompt for class_prompts in prompts for prompt in class_prompts]
    with torch.inference_mode():
        embeddings = F.normalize(encode_text(flat).float(), dim=1)
    # Copied outside inference mode, so that a text head may start from them and train.
    by_class = embeddings.clone().split([len(class_prompts) for class_prompts in prompts])
    return F.normalize(torch.stack([vectors.mean(0) for vectors in by_class]), dim=1)


def zero_shot_logits(
    features: Float[Tensor, "n e"], vectors: Float[Tensor, "c e"], logit_scale: float
) -> Float[Tensor, "n c"]:
    """Return the cosines of image embeddings and class vectors times CLIP's `logit_scale.exp()`."""
    return logit_scale * F.normalize(features, dim=1) @ vectors.T
