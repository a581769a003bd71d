"""Classification heads: embedding (B, E) to logits (B, C), in float32 under autocast too."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowertune.seeding import seeded

SMALLEST_STD = 1e-3  # as a part of the mean over dimensions; below it a dimension is noise


class LinearHead(nn.Module):
    """Standardize the embedding by fixed statistics, then apply a Linear layer.

    `mean`, `std` (E,): of the frozen backbone's embeddings of the training images; both None to
    leave the embedding as it is. Initial weights are drawn from (seed, "head").
    """

    def __init__(
        self,
        embedding_dim: int,
        classes: int,
        mean: Tensor | None,
        std: Tensor | None,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        if mean is None or std is None:
            mean, std = torch.zeros(embedding_dim), torch.ones(embedding_dim)
        mean, std = mean.detach().float(), std.detach().float()
        if mean.shape != (embedding_dim,) or std.shape != (embedding_dim,):
            raise ValueError(f"mean and std must have the shape ({embedding_dim},)")
        if not (mean.isfinite().all() and std.isfinite().all() and std.mean() > 0):
            raise ValueError("mean and std must be finite, and std not zero everywhere")
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clamp_min(SMALLEST_STD * float(std.mean())))
        with seeded(seed, "head"):
            self.linear = nn.Linear(embedding_dim, classes)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> None:
        """Become the classifier `(embedding - mean) / std @ weight.T + bias`, in place.

        weight (C, E), bias (C,), mean and std (E,): a linear probe, say, standardized by its own
        statistics; the head's stay as they are.
        """
        own_mean, own_std = self.mean.to(weight), self.std.to(weight)
        self.linear.weight.copy_(weight * (own_std / std))
        self.linear.bias.copy_(bias + weight @ ((own_mean - mean) / std))

    def forward(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self.linear((embedding.float() - self.mean) / self.std)  # type: ignore[no-any-return]


class CosineHead(nn.Module):
    """Scale the cosine between the embedding and one vector for each class.

    Initial class vectors (C, E) are of unit length and drawn from (seed, "head").
    """

    def __init__(
        self, embedding_dim: int, classes: int, scale: float, learn_scale: bool, *, seed: int
    ) -> None:
        super().__init__()
        with seeded(seed, "head"):
            vectors = torch.randn(classes, embedding_dim)
        self.weight = nn.Parameter(F.normalize(vectors, dim=1))
        # The logarithm, as CLIP learns it: a step changes the scale by a part of itself.
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learn_scale)

    def forward(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = F.normalize(embedding.float(), dim=1) @ F.normalize(self.weight, dim=1).T
            return cosine * self.log_scale.exp()


class TextHead(CosineHead):
    """A cosine head that starts as CLIP's zero-shot classifier.

    `class_vectors` (C, E): the text embedding of each class; `scale`: CLIP's logit scale.
    """

    def __init__(self, class_vectors: Tensor, scale: float, learn_scale: bool) -> None:
        classes, embedding_dim = class_vectors.shape
        super().__init__(embedding_dim, classes, scale, learn_scale, seed=0)
        with torch.no_grad():
            self.weight.copy_(F.normalize(class_vectors.float(), dim=1))


def head_from_state(state: Mapping[str, Tensor]) -> nn.Module:
    """Build the head from its state dict. A text head is a cosine head by then.

    Raises KeyError, ValueError or RuntimeError for any other state.
    """
    head: nn.Module
    if "linear.weight" in state:
        classes, width = state["linear.weight"].shape
        head = LinearHead(width, classes, None, None, seed=0)
    else:
        classes, width = state["weight"].shape
        head = CosineHead(width, classes, scale=1.0, learn_scale=False, seed=0)
    head.load_state_dict(dict(state))
    return head


@dataclass(frozen=True)
class LinearForm:
    """A head as logits = embedding @ weight.T + bias; weight (C, E), bias (C,), float32.

    `normalizes`: the embedding is scaled to unit length first.
    """

    weight: Tensor
    bias: Tensor
    normalizes: bool


def as_linear(head: nn.Module) -> LinearForm:
    """Fold standardization, or the scale of a cosine, into the weights of the same function."""
    if isinstance(head, LinearHead):
        # in double precision, as a small std makes large weights
        weight = head.linear.weight.detach().double() / head.std.double()
        bias = head.linear.bias.detach().double() - weight @ head.mean.double()
        return LinearForm(weight.float(), bias.float(), normalizes=False)
    assert isinstance(head, CosineHead)
    vectors = F.normalize(head.weight.detach().double(), dim=1)
    weight = (vectors * head.log_scale.detach().double().exp()).float()
    return LinearForm(weight, weight.new_zeros(len(weight)), normalizes=True)
