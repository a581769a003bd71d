"""Compute logits with a trained classifier: one code path for every reported number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from flowertune.data.device_pixels import DevicePixels
from flowertune.data.image import Preprocessing
from flowertune.data.transforms.augment import normalize
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.vision_tower import split_for_cpu
from flowertune.runtime.device import Compute


@dataclass(frozen=True)
class Outputs:
    """Embeddings and logits, float32 on the CPU, in the order of the images."""

    embedding: Float[Tensor, "n e"]
    logits: Float[Tensor, "n c"]


def infer(
    classifier: Classifier,
    pixels: DevicePixels,
    preprocessing: Preprocessing,
    batch_size: int,
    compute: Compute,
    progress: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Run evaluation pixels through the classifier in eval mode, adapter merged.

    `progress(done, total)` counts photos.
    """
    classifier.eval()
    mean = torch.tensor(preprocessing.mean, device=pixels.device)
    std = torch.tensor(preprocessing.std, device=pixels.device)
    embeddings, logits = [], []
    with classifier.merged(), torch.inference_mode():
        n_done = 0
        for batch in pixels.batches(torch.arange(len(pixels)).split(batch_size)):
            with compute.autocast():
                for part in split_for_cpu(classifier.visual, batch):
                    part_embedding, part_logits = classifier(normalize(part, mean, std))
                    embeddings.append(part_embedding)
                    logits.append(part_logits)
            n_done += len(batch)
            if progress is not None:
                progress(n_done, len(pixels))
    return Outputs(torch.cat(embeddings).cpu(), torch.cat(logits).cpu())


def encode(
    backbone: Backbone, compute: Compute, pixels: UInt8[Tensor, "b 3 h w"]
) -> Float[Tensor, "b e"]:
    """Encode pixels on the device to embeddings, as `infer` does.

    The backbone is in eval mode, and nothing of it is trained.
    """
    mean, std = backbone.preprocessing.mean, backbone.preprocessing.std
    with compute.autocast():
        parts = split_for_cpu(backbone.visual, pixels)
        return torch.cat([backbone.encode_image(normalize(part, mean, std)) for part in parts])


@torch.inference_mode()
def infer_features(
    classifier: Classifier, features: Float[Tensor, "n e"], batch_size: int
) -> Outputs:
    """Compute from a frozen tower's features the same bits as `infer`."""
    classifier.eval()
    device = next(classifier.parameters()).device
    logits = [
        classifier.head(part)
        for batch in features.split(batch_size)
        for part in split_for_cpu(classifier.visual, batch.to(device))
    ]
    return Outputs(features, torch.cat(logits).cpu())


def top_classes_header(k: int) -> list[str]:
    """Column names of the k likeliest classes and their probabilities."""
    first = ["prediction", "probability"]
    return first + [f"{name}_{rank}" for rank in range(2, k + 1) for name in first]


def top_classes(
    logits: Float[Tensor, "n c"], k: int
) -> tuple[Int64[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Rank classes by logits: indices and probabilities of the k likeliest, or of all if fewer."""
    # Ranked by the logits, as the metrics are: probabilities round to equal ones near 1.
    top = logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    return top, logits.float().softmax(dim=1).gather(1, top)


def prediction_table(
    names: Sequence[str],
    labels: Sequence[int],
    logits: Float[Tensor, "n c"],
    class_names: Sequence[str],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a predictions file: name, label, five likeliest classes per image."""
    top, probabilities = top_classes(logits, 5)
    header = ["path", "label", *top_classes_header(top.shape[1])]
    rows = []
    for name, label, indices, values in zip(
        names, labels, top.tolist(), probabilities.tolist(), strict=True
    ):
        row = [name, class_names[label]]
        for index, value in zip(indices, values, strict=True):
            row += [class_names[index], f"{value:.6f}"]
        rows.append(row)
    return header, rows
