"""Save thumbnails and embeddings, so that a report can be rebuilt without dataset and GPU."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from flowertune import files, seeding
from flowertune.data.cache.dataset import CachedDataset
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.loader import TrainLoader
from flowertune.inference.logits import Outputs
from flowertune.runs.directory import REPORT_DATA, Run

SIDE = 112  # pixels of a thumbnail; JPEGs of about 4 kB
SHOWN = 12  # errors, and as many correct predictions
AUGMENTED = 6  # images
VARIANTS = 4  # per augmented image
MAPPED = 2000  # images: 4 MB before and after training, with 512 dimensions


@dataclass(frozen=True)
class ReportInputs:
    """Data from the end of a training for its report."""

    cached: CachedDataset
    reported_split: str
    outputs: Outputs  # of the reported split
    train_embedding: Float[Tensor, "n e"]  # of the trained model
    frozen_embedding: Float[Tensor, "m e"] | None  # of the reported split; None if not computed
    pixels: Mapping[str, DevicePixels]
    loader: TrainLoader | None  # None without epochs
    seed: int


def write_report_data(run: Run, inputs: ReportInputs) -> None:
    """Write RUN/report/ atomically. Raises OSError, for example DiskFullError."""
    content = {
        "split": inputs.reported_split,
        **_gallery(inputs),
        "augmented": [] if inputs.loader is None else _augmented(inputs, inputs.loader),
    }
    contents = {
        "photos.json": json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace"),
        "embeddings.safetensors": _embeddings(inputs),
    }
    files.write_folder(run.path / REPORT_DATA, contents)


def _gallery(inputs: ReportInputs) -> dict[str, list[dict[str, Any]]]:
    """Most confident errors, least confident correct predictions, and nearest training images."""
    labels = torch.tensor(inputs.cached.splits[inputs.reported_split].split.labels)
    logits = inputs.outputs.logits
    confidence = logits.float().softmax(1).amax(1)
    # the first of equal logits, like the table of predictions
    correct = logits.argsort(dim=1, descending=True, stable=True)[:, 0] == labels
    order = confidence.argsort(descending=True, stable=True)
    mistakes = order[~correct[order]][:SHOWN]
    unsure = order[correct[order]].flip(0)[:SHOWN]
    rows = torch.cat([mistakes, unsure])
    train_embedding = F.normalize(inputs.train_embedding.float(), dim=1)
    similarity, nearest = (
        F.normalize(inputs.outputs.embedding[rows].float(), dim=1) @ train_embedding.T
    ).max(1)
    images = _describe(inputs, inputs.reported_split, rows, row=rows.tolist())
    neighbors = _describe(inputs, "train", nearest, similarity=similarity.tolist())
    entries = [
        {**image, "nearest": neighbor} for image, neighbor in zip(images, neighbors, strict=True)
    ]
    return {"mistakes": entries[: len(mistakes)], "unsure": entries[len(mistakes) :]}


def _augmented(inputs: ReportInputs, loader: TrainLoader) -> list[dict[str, Any]]:
    """Some training images with augmented variants, as the first epoch could have had them."""
    if loader.augmentation is None:
        return []
    order = torch.randperm(len(loader), generator=seeding.generator(inputs.seed, "report photos"))
    first_of_class: dict[int, int] = {}  # show different classes first
    for row in order.tolist():
        first_of_class.setdefault(int(loader.labels[row]), row)
    rest = [row for row in order.tolist() if row not in first_of_class.values()]
    rows = torch.tensor([*first_of_class.values(), *rest][:AUGMENTED])
    mean, std = loader.mean.view(3, 1, 1), loader.std.view(3, 1, 1)
    batches = [(number, rows) for number in range(VARIANTS)]
    variants = [
        _thumbnails(images.mul(std).add(mean).mul(255).round().clamp(0, 255).byte().cpu())
        for images, _ in loader.load(batches, epoch=1)
    ]
    originals = _describe(inputs, "train", rows)
    return [
        {**image, "variants": pictures}
        for image, *pictures in zip(originals, *variants, strict=True)
    ]


def _embeddings(inputs: ReportInputs) -> bytes:
    """Serialize "before" and "after" (M, E) in float16 and "rows" (M,) of randomly drawn images."""
    generator = seeding.generator(inputs.seed, "report map")
    rows = torch.randperm(len(inputs.outputs.logits), generator=generator)[:MAPPED].sort().values
    embeddings = {"after": inputs.outputs.embedding, "before": inputs.frozen_embedding}
    # unit length, as large values overflow float16
    units = {
        name: F.normalize(embedding[rows].float(), dim=1).half()
        for name, embedding in embeddings.items()
        if embedding is not None
    }
    data: bytes = save({"rows": rows, **units})
    return data


def _describe(
    inputs: ReportInputs, split: str, rows: Int64[Tensor, "b"], **columns: Sequence[Any]
) -> list[dict[str, Any]]:
    names, labels = inputs.cached.image_names(split), inputs.cached.splits[split].split.labels
    (pixels,) = inputs.pixels[split].batches([rows])
    return [
        {
            "path": names[row],
            "label": inputs.cached.dataset.class_names[labels[row]],
            **dict(zip(columns, values, strict=True)),
            "picture": picture,
        }
        for row, picture, *values in zip(
            rows.tolist(), _thumbnails(pixels.cpu()), *columns.values(), strict=True
        )
    ]


def _thumbnails(pixels: UInt8[Tensor, "b 3 h w"]) -> Sequence[str]:
    pictures = []
    for image in pixels:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=80)
        pictures.append(base64.b64encode(file.getvalue()).decode("ascii"))
    return pictures
