"""Classification heads: embeddings (B, E) -> logits (B, C), in float32 even under autocast."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowertune.errors import ExportError, TrainingError
from flowertune.seeding import seeded

SMALLEST_STD = 1e-3  # as a fraction of the mean over dimensions; below, a dimension is noise


@dataclass(frozen=True)
class LinearForm:
    """A head in the form logits = embedding @ weight.T + bias; weight (C, E), bias (C,), float32.

    With `normalizes`, the embedding is first scaled to unit length.
    """

    weight: Tensor
    bias: Tensor
    normalizes: bool


@dataclass(frozen=True)
class HeadInputs:
    """Inputs from which a head is built, apart from its own settings.

    train_features: frozen features (N, E) of the training images, if the head standardizes.
    class_vectors: unit vectors (C, E) from prompts, for a text head.
    linear_start: weight, bias, mean and std of a linear probe, if the head is or starts as one.
    """

    embedding_dim: int
    classes: int
    logit_scale: float
    seed: int
    train_features: Tensor | None
    class_vectors: Tensor | None
    linear_start: Sequence[Tensor] | None


class Head(nn.Module):
    """Base class of heads: `forward(embedding) -> logits`."""

    def as_linear(self) -> LinearForm:
        """Return the whole head as one matrix and one vector, or raise ExportError."""
        raise ExportError(f"{type(self).__name__}: not a linear head, which every format requires")


class LinearHead(Head):
    """Linear layer, with `standardize` on embeddings standardized by `train_features`.

    Initial weights are drawn from (seed, "head"), or give the same logits as `linear_start`.
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
                raise TrainingError("all training images look the same to the backbone; check them")
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
        # in double precision: a small std gives large weights
        weight = self.linear.weight.detach().double() / self.std.double()
        bias = self.linear.bias.detach().double() - weight @ self.mean.double()
        return LinearForm(weight.float(), bias.float(), normalizes=False)

    def forward(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self.linear((embedding.float() - self.mean) / self.std)  # type: ignore[no-any-return]


class CosineHead(Head):
    """Scaled cosine between the embedding and one vector per class.

    Initial class vectors (C, E) have unit length and are drawn from (seed, "head").
    """

    def __init__(self, inputs: HeadInputs, *, scale: float, learn_scale: bool) -> None:
        super().__init__()
        with seeded(inputs.seed, "head"):
            vectors = torch.randn(inputs.classes, inputs.embedding_dim)
        self.weight = nn.Parameter(F.normalize(vectors, dim=1))
        # The logarithm, as in CLIP: a step changes the scale by a fraction of itself.
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
    """Build a cosine head that starts as CLIP's zero-shot classifier with its logit scale."""
    assert inputs.class_vectors is not None
    head = CosineHead(inputs, scale=inputs.logit_scale, learn_scale=learn_scale)
    with torch.no_grad():
        head.weight.copy_(F.normalize(inputs.class_vectors.float(), dim=1))
    return head


# By option name; keyword-only parameters are keys of the option's config.
HEADS: dict[str, Callable[..., Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "text": text_head,
}
