"""What a report shows of the photos, left in the run: made again, it needs neither photos nor GPU.

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
SHOWN = 12  # mistakes, and as many hits
AUGMENTED = 6  # photos
VARIANTS = 4  # of each
MAPPED = 2000  # photos: 4 MB before and after, at 512 numbers


@dataclass(frozen=True)
class ReportInputs:
    """What a training knows when it ends.

    judged: the split that mistakes are looked for in. outputs: of that split. trained: (N, E) the
    train split's embeddings by the kept weights. frozen: (M, E) the judged split's by the backbone
    as it was; None where nobody needed them, or where it still is. training: None without epochs.
    """

    photos: CachedDataset
    reported_split: str
    outputs: Outputs
    trained: Tensor
    frozen: Tensor | None
    pixels: Mapping[str, DevicePixels]
    training: TrainLoader | None
    seed: int


def write_report_data(run: Run, ending: ReportInputs) -> None:
    """Writes RUN/report/, whole or not at all.

    Raises DiskFullError, or another OSError.
    """
    photos = {
        "split": ending.reported_split,
        **_gallery(ending),
        "augmented": [] if ending.training is None else _augmented(ending, ending.training),
    }
    contents = {
        "photos.json": json.dumps(photos, ensure_ascii=False).encode(errors="backslashreplace"),
        "embeddings.safetensors": _embeddings(ending),
    }
    files.write_folder(run.path / REPORT_DATA, contents)


def _gallery(ending: ReportInputs) -> dict[str, list[dict[str, Any]]]:
    """The surest mistakes and the least sure hits, each with the nearest training photo."""
    labels = torch.tensor(ending.photos.splits[ending.reported_split].split.labels)
    logits = ending.outputs.logits
    confidence = logits.float().softmax(1).amax(1)
    # of equal logits the first, as in the table of predictions
    hit = logits.argsort(dim=1, descending=True, stable=True)[:, 0] == labels
    order = confidence.argsort(descending=True, stable=True)
    mistakes = order[~hit[order]][:SHOWN]
    unsure = order[hit[order]].flip(0)[:SHOWN]
    chosen = torch.cat([mistakes, unsure])
    trained = F.normalize(ending.trained.float(), dim=1)
    similarity, nearest = (
        F.normalize(ending.outputs.embedding[chosen].float(), dim=1) @ trained.T
    ).max(1)
    pictures = _small(_pixels(ending, ending.reported_split, chosen))
    neighbors = _small(_pixels(ending, "train", nearest))
    shown = [
        {
            **_named(ending, ending.reported_split, photo),
            "row": photo,
            "picture": picture,
            "nearest": {
                **_named(ending, "train", neighbor),
                "similarity": cosine,
                "picture": its_picture,
            },
        }
        for photo, picture, neighbor, cosine, its_picture in zip(
            chosen.tolist(), pictures, nearest.tolist(), similarity.tolist(), neighbors,
            strict=True,
        )
    ]  # fmt: skip
    return {"mistakes": shown[: len(mistakes)], "unsure": shown[len(mistakes) :]}


def _augmented(ending: ReportInputs, training: TrainLoader) -> list[dict[str, Any]]:
    """Some training photos as they are and as a training's first epoch could have met them."""
    if training.augmentation is None:
        return []
    order = torch.randperm(len(training), generator=seeding.generator(ending.seed, "report photos"))
    of_class: dict[int, int] = {}  # photos of different classes, as long as there are such
    for photo in order.tolist():
        of_class.setdefault(int(training.labels[photo]), photo)
    others = [photo for photo in order.tolist() if photo not in of_class.values()]
    chosen = torch.tensor([*of_class.values(), *others][:AUGMENTED])
    mean, std = training.mean.view(3, 1, 1), training.std.view(3, 1, 1)
    numbered = [(number, chosen) for number in range(VARIANTS)]
    variants = [
        _small(images.mul(std).add(mean).mul(255).round().clamp(0, 255).byte().cpu())
        for images, _ in training.load(numbered, epoch=1)
    ]
    originals = _small(_pixels(ending, "train", chosen))
    return [
        {
            **_named(ending, "train", photo),
            "picture": picture,
            "variants": [made[place] for made in variants],
        }
        for place, (photo, picture) in enumerate(zip(chosen.tolist(), originals, strict=True))
    ]


def _embeddings(ending: ReportInputs) -> bytes:
    """before (M, E) and after (M, E) float16 of photos drawn by seed, and their rows (M,)."""
    generator = seeding.generator(ending.seed, "report map")
    rows = torch.randperm(len(ending.outputs.logits), generator=generator)[:MAPPED].sort().values
    kept = {"rows": rows, "after": ending.outputs.embedding[rows]}
    if ending.frozen is not None:
        kept["before"] = ending.frozen[rows]
    # of length 1, as float16 has no room for large ones
    data: bytes = save(
        {
            name: each if name == "rows" else F.normalize(each.float(), dim=1).half()
            for name, each in kept.items()
        }
    )
    return data


def _named(ending: ReportInputs, split: str, photo: int) -> dict[str, str]:
    path = ending.photos.splits[split].split.paths[photo]
    label = ending.photos.splits[split].split.labels[photo]
    return {
        "path": path.relative_to(ending.photos.dataset.root).as_posix(),
        "label": ending.photos.dataset.class_names[label],
    }


def _pixels(ending: ReportInputs, split: str, photos: Tensor) -> Tensor:
    """Evaluation pixels (B, 3, H, W) uint8 on the CPU."""
    (pixels,) = ending.pixels[split].batches([photos])
    return pixels.cpu()


def _small(pixels: Tensor) -> Sequence[str]:
    """Pixels (B, 3, H, W) uint8 as small JPEGs in base64."""
    pictures = []
    for each in pixels:
        picture = Image.fromarray(each.permute(1, 2, 0).numpy())
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=80)
        pictures.append(base64.b64encode(file.getvalue()).decode("ascii"))
    return pictures
