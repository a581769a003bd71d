"""Load images like a notebook: ImageFolder, torchvision's transforms, a DataLoader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms
from torchvision.transforms import InterpolationMode

from peers.work import CROP_SCALE, EVAL_BATCH_SIZE, FLIP, PREPROCESS, Work


def crop_and_flip(size: int) -> Callable[[Any], Any]:
    """Training augmentation, from PIL image to PIL image (size, size)."""
    return transforms.Compose(  # type: ignore[no-any-return]
        [
            transforms.RandomResizedCrop(
                size, scale=CROP_SCALE, interpolation=InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(FLIP),
        ]
    )


def to_input() -> Callable[[Any], Any]:
    """Convert a PIL image to a normalized tensor (3, H, W)."""
    return transforms.Compose(  # type: ignore[no-any-return]
        [
            transforms.ToTensor(),
            transforms.Normalize(PREPROCESS["mean"], PREPROCESS["std"]),
        ]
    )


def resize_and_crop(size: int) -> Callable[[Any], Any]:
    """Center crop of the evaluation, from PIL image to PIL image (size, size)."""
    return transforms.Compose(  # type: ignore[no-any-return]
        [
            transforms.Resize(size, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
        ]
    )


def folder(work: Work, split: str, *steps: Callable[[Any], Any]) -> datasets.ImageFolder:
    """Images of a split with their labels, decoded on each access."""
    return datasets.ImageFolder(str(Path(work.photos) / split), transforms.Compose(steps))


def loader(dataset: Dataset[Any], work: Work, device: str, training: bool) -> DataLoader[Any]:
    """Batches from `work.workers` persistent processes."""
    return DataLoader(
        dataset,
        batch_size=work.batch_size if training else EVAL_BATCH_SIZE,
        shuffle=training,
        num_workers=work.workers,
        persistent_workers=work.workers > 0,
        pin_memory=device == "cuda",
    )
