"""The training that flowertune and its peers do."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# flowertune's defaults, for the same steps everywhere
LR, HEAD_LR, WEIGHT_DECAY = 1e-3, 5e-3, 1e-2
WARMUP_EPOCHS = 1
CLIP_NORM = 1.0
CROP_SCALE, FLIP = (0.35, 1.0), 0.5
EVAL_BATCH_SIZE = 128

# CLIP's preprocessing
PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
VIT_TINY = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 224,
        "layers": 12,
        "width": 192,
        "head_width": 64,
        "patch_size": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
MODELS = ("vit_b32", "vit_tiny")


@dataclass(frozen=True)
class Work:
    """One training: LoRA of rank and alpha on q, k, v and out of every block, and a linear head.

    photos: folder with train/ and val/ of class folders. backbone: an open_clip directory.
    workers: processes of a DataLoader. device and precision may be "auto".
    """

    photos: str
    backbone: str
    batch_size: int
    epochs: int
    device: str
    precision: str
    workers: int
    rank: int = 8
    alpha: int = 16
    seed: int = 42


def write_backbone(folder: Path, model: str, seed: int) -> None:
    """Write an open_clip directory with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from flowertune.models.pretrained import quiet

    config: dict[str, Any] = VIT_TINY
    if model == "vit_b32":
        config = open_clip.get_model_config("ViT-B-32-quickgelu")
    folder.mkdir(parents=True)
    text = json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS}, indent=2)
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    torch.manual_seed(seed)
    with quiet():
        clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")


def link_photos(
    source: Path,
    target: Path,
    limit: int | None,
    splits: Sequence[str] = ("train", "val"),
    copies: int = 1,
) -> dict[str, int]:
    """Link to the images of the splits, at most `limit` of each; return the number of links.

    Images are taken from the classes in turn, so class sizes differ by at most one. Each is linked
    `copies` times, under other names: `0.jpg`, `0.copy-1.jpg`, `0.copy-2.jpg`.
    """
    counts = {}
    for split in splits:
        classes = [
            sorted(each.iterdir()) for each in sorted((source / split).iterdir()) if each.is_dir()
        ]
        turns = [photo for turn in range(max(map(len, classes)))
                 for photo in (each[turn] for each in classes if turn < len(each))]  # fmt: skip
        for photo in turns[:limit]:
            place = target / split / photo.parent.name
            place.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                name = f"{photo.stem}.copy-{copy}{photo.suffix}" if copy else photo.name
                (place / name).symlink_to(photo.resolve())
            photo.read_bytes()  # so that no run waits for the disk
        counts[split] = copies * len(turns[:limit])
    return counts


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def epoch_result(
    train_seconds: list[float], val_seconds: list[float], photos: int, prepare_seconds: float = 0.0
) -> dict[str, Any]:
    """Seconds and images/s of a training, from the seconds of its epochs."""
    seconds = prepare_seconds + sum(train_seconds)
    return {
        "seconds": seconds,
        "prepare_seconds": prepare_seconds,
        "epoch_seconds": train_seconds,
        "val_seconds": sum(val_seconds),
        "images_per_second": photos * len(train_seconds) / seconds,
        "images_per_second_last_epoch": photos / train_seconds[-1],
    }
