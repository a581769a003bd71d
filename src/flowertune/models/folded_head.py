"""Any head as one matrix and one vector, which every other program knows how to apply."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flowertune.models.head import CosineHead, LinearHead


@dataclass(frozen=True)
class FoldedHead:
    """logits = embedding @ weight.T + bias; weight (C, E), bias (C,), float32.

    `normalises`: the embedding is made one of unit length before.
    """

    weight: Tensor
    bias: Tensor
    normalises: bool


def folded(head: nn.Module) -> FoldedHead:
    """The same function: standardisation, or the scale of a cosine, becomes part of the weights."""
    if isinstance(head, LinearHead):
        # in double precision, as small deviations make large weights
        weight = head.linear.weight.detach().double() / head.std.double()
        bias = head.linear.bias.detach().double() - weight @ head.mean.double()
        return FoldedHead(weight.float(), bias.float(), normalises=False)
    assert isinstance(head, CosineHead)
    vectors = F.normalize(head.weight.detach().double(), dim=1)
    weight = (vectors * head.log_scale.detach().double().exp()).float()
    return FoldedHead(weight, weight.new_zeros(len(weight)), normalises=True)
