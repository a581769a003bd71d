"""Save the images and embeddings of a report, which needs neither dataset nor GPU to be rebuilt.

RUN/report/photos.json holds small JPEG pictures (base64) with what there is to say of each;
RUN/report/embeddings.safetensors what the map of the embeddings is drawn from. Paths and labels are
those of the run's predictions.
"""

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

SIDE = 112  # pixels of a small picture; JPEGs of about 4 kB
SHOWN = 12  # mistakes, and as many correct ones
AUGMENTED = 6  # images
VARIANTS = 4  # of each
MAPPED = 2000  # images: 4 MB before and after, at 512 numbers


@dataclass(frozen=True)
class ReportInputs:
    """Data at the end of a training that its report needs.

    reported_split: mistakes are looked for there; outputs: its own. train_embedding: by the kept
    weights. frozen_embedding: of the reported split by the untrained backbone; None
    where nobody needed it, or where the tower is untrained. loader: None without epochs.
    """

    cached: CachedDataset
    reported_split: str
    outputs: Outputs
    train_embedding: Float[Tensor, "n e"]
    frozen_embedding: Float[Tensor, "m e"] | None
    pixels: Mapping[str, DevicePixels]
    loader: TrainLoader | None
    seed: int


def write_report_data(run: Run, inputs: ReportInputs) -> None:
    """Write RUN/report/, whole or not at all.

    Raises DiskFullError, or another OSError.
    """
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
    """Collect sure mistakes and unsure correct predictions, with their nearest training images."""
    labels = torch.tensor(inputs.cached.splits[inputs.reported_split].split.labels)
    logits = inputs.outputs.logits
    confidence = logits.float().softmax(1).amax(1)
    # of equal logits the first, as in the table of predictions
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
    """Show some training images as they are and as the first epoch could have augmented them."""
    if loader.augmentation is None:
        return []
    order = torch.randperm(len(loader), generator=seeding.generator(inputs.seed, "report photos"))
    first_of_class: dict[int, int] = {}  # images of different classes, as long as there are such
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
    """Serialize before (M, E) and after (M, E) float16 of images drawn by seed, and rows (M,)."""
    generator = seeding.generator(inputs.seed, "report map")
    rows = torch.randperm(len(inputs.outputs.logits), generator=generator)[:MAPPED].sort().values
    embeddings = {"after": inputs.outputs.embedding, "before": inputs.frozen_embedding}
    # of length 1, as float16 has no room for large ones
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
    """Give the path, the label, the columns and a small picture of each image."""
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
    """Encode pixels as small JPEGs in base64."""
    pictures = []
    for image in pixels:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=80)
        pictures.append(base64.b64encode(file.getvalue()).decode("ascii"))
    return pictures
