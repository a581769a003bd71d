"""Classification heads: embedding (B, E) to logits (B, C), in float32 under autocast too."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowertune.errors import ExportError
from flowertune.seeding import seeded

SMALLEST_STD = 1e-3  # as a part of the mean over dimensions; below it a dimension is noise


@dataclass(frozen=True)
class LinearForm:
    """A head as logits = embedding @ weight.T + bias; weight (C, E), bias (C,), float32.

    `normalizes`: the embedding is scaled to unit length first.
    """

    weight: Tensor
    bias: Tensor
    normalizes: bool


@dataclass(frozen=True)
class HeadInputs:
    """What a head is made of, besides its own settings.

    train_features: (N, E), frozen, of the training images, where the head standardizes.
    class_vectors: (C, E), unit vectors from prompts, for a text head. linear_start: weight, bias,
    mean and std of a linear probe, where the head is one or starts as one.
    """

    embedding_dim: int
    classes: int
    logit_scale: float
    seed: int
    train_features: Tensor | None
    class_vectors: Tensor | None
    linear_start: Sequence[Tensor] | None


class Head(nn.Module):
    """`forward(embedding) -> logits`."""

    def as_linear(self) -> LinearForm:
        """Fold all that the head does into one matrix and one vector; ExportError if it cannot."""
        raise ExportError(f"{type(self).__name__} is no linear head, which every format needs")


class LinearHead(Head):
    """Standardize the embedding by `train_features`, if at all, then apply a Linear layer.

    Initial weights are drawn from (seed, "head"), or compute what `linear_start` does, by its own
    statistics.
    """

    def __init__(self, inputs: HeadInputs, *, standardize: bool) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        mean, std = torch.zeros(inputs.embedding_dim), torch.ones(inputs.embedding_dim)
        if standardize:
            assert inputs.train_features is not None
            exact = torch.std_mean(inputs.train_features.double(), dim=0, correction=0)
            std, mean = (statistic.float() for statistic in exact)
            if not std.any():
                raise ValueError("all training features are the same")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp_min(SMALLEST_STD * float(std.mean())))
        with seeded(inputs.seed, "head"):
            self.linear = nn.Linear(inputs.embedding_dim, inputs.classes)
        if inputs.linear_start is not None:
            weight, bias, mean, std = inputs.linear_start
            with torch.no_grad():
                self.linear.weight.copy_(weight * (self.std.to(weight) / std))
                self.linear.bias.copy_(bias + weight @ ((self.mean.to(weight) - mean) / std))

    def as_linear(self) -> LinearForm:
        # in double precision, as a small std makes large weights
        weight = self.linear.weight.detach().double() / self.std.double()
        bias = self.linear.bias.detach().double() - weight @ self.mean.double()
        return LinearForm(weight.float(), bias.float(), normalizes=False)

    def forward(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self.linear((embedding.float() - self.mean) / self.std)  # type: ignore[no-any-return]


class CosineHead(Head):
    """Scale the cosine between the embedding and one vector for each class.

    Initial class vectors (C, E) are of unit length and drawn from (seed, "head").
    """

    def __init__(self, inputs: HeadInputs, *, scale: float, learn_scale: bool) -> None:
        super().__init__()
        with seeded(inputs.seed, "head"):
            vectors = torch.randn(inputs.classes, inputs.embedding_dim)
        self.weight = nn.Parameter(F.normalize(vectors, dim=1))
        # The logarithm, as CLIP learns it: a step changes the scale by a part of itself.
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learn_scale)

    def as_linear(self) -> LinearForm:
        vectors = F.normalize(self.weight.detach().double(), dim=1)
        weight = (vectors * self.log_scale.detach().double().exp()).float()
        return LinearForm(weight, weight.new_zeros(len(weight)), normalizes=True)

    def forward(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = F.normalize(embedding.float(), dim=1) @ F.normalize(self.weight, dim=1).T
            return cosine * self.log_scale.exp()


def text_head(inputs: HeadInputs, *, learn_scale: bool) -> CosineHead:
    """Build a cosine head that starts as CLIP's zero-shot classifier, with its logit scale."""
    assert inputs.class_vectors is not None
    head = CosineHead(inputs, scale=inputs.logit_scale, learn_scale=learn_scale)
    with torch.no_grad():
        head.weight.copy_(F.normalize(inputs.class_vectors.float(), dim=1))
    return head


# By the option's name; keyword-only parameters are keys of its config.
HEADS: dict[str, Callable[..., Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "text": text_head,
}
