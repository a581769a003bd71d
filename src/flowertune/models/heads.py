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


class Head(nn.Module):
    """`forward(embedding) -> logits`."""

    def as_linear(self) -> LinearForm:
        """Fold all that the head does into one matrix and one vector, for exports.

        Raises:
            ExportError: it is no such function.
        """
        raise ExportError(f"{type(self).__name__} is no linear head, which every format needs")


class LinearHead(Head):
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

    def __init__(
        self, embedding_dim: int, classes: int, scale: float, learn_scale: bool, *, seed: int
    ) -> None:
        super().__init__()
        with seeded(seed, "head"):
            vectors = torch.randn(classes, embedding_dim)
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


def linear_head(inputs: HeadInputs, *, standardize: bool) -> LinearHead:
    """Build a linear head, standardized by the training features, with the start that there is."""
    mean, std = None, None
    if standardize:
        assert inputs.train_features is not None
        std, mean = torch.std_mean(inputs.train_features.double(), dim=0, correction=0)
    head = LinearHead(inputs.embedding_dim, inputs.classes, mean, std, seed=inputs.seed)
    if inputs.linear_start is not None:
        head.start_from(*inputs.linear_start)
    return head


def cosine_head(inputs: HeadInputs, *, scale: float, learn_scale: bool) -> CosineHead:
    """Build a cosine head with random class vectors."""
    return CosineHead(inputs.embedding_dim, inputs.classes, scale, learn_scale, seed=inputs.seed)


def text_head(inputs: HeadInputs, *, learn_scale: bool) -> CosineHead:
    """Build a cosine head that starts as CLIP's zero-shot classifier, with its logit scale."""
    assert inputs.class_vectors is not None
    head = cosine_head(inputs, scale=inputs.logit_scale, learn_scale=learn_scale)
    with torch.no_grad():
        head.weight.copy_(F.normalize(inputs.class_vectors.float(), dim=1))
    return head


# By the option's name; keyword-only parameters are keys of its config.
HEADS: dict[str, Callable[..., Head]] = {
    "linear": linear_head,
    "cosine": cosine_head,
    "text": text_head,
}
