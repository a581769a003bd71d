"""Preprocess an image for an exported model, with the settings in preprocessing.json next to this
file. Needs only Pillow and NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def load(path: str | Path) -> Any:
    """Read an image, upright and normalized: (1, 3, H, W) float32."""
    settings = json.loads(Path(__file__).with_name("preprocessing.json").read_text())
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    pixels = np.asarray(fit(image, **settings), dtype=np.float32) / np.float32(255)
    normalized = (pixels - np.float32(settings["mean"])) / np.float32(settings["std"])
    return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None])


def fit(
    image: Image.Image,
    size: tuple[int, int],
    resize_mode: str,
    interpolation: str,
    fill_color: int,
    **others: Any,
) -> Image.Image:
    """Resize, crop and pad an RGB image to (height, width), as open_clip does."""
    height, width = size
    filter = Image.Resampling[interpolation.upper()]
    if resize_mode == "squash":
        return image.resize((width, height), filter)
    if resize_mode == "shortest" and height == width:
        short, long = sorted(image.size)
        other = int(height * long / short)
        shape = (height, other) if image.width <= image.height else (other, height)
    else:
        ratios = (image.height / height, image.width / width)
        ratio = max(ratios) if resize_mode == "longest" else min(ratios)
        shape = (round(image.width / ratio), round(image.height / ratio))
        filter = filter if resize_mode == "longest" else Image.Resampling.BICUBIC
    image = image if image.size == shape else image.resize(shape, filter)
    # pad or crop each side, around the center
    padding = max(width - image.width, 0), max(height - image.height, 0)
    shape = (image.width + padding[0], image.height + padding[1])
    padded = Image.new("RGB", shape, (fill_color, fill_color, fill_color))
    padded.paste(image, (padding[0] // 2, padding[1] // 2))
    left, top = round((padded.width - width) / 2), round((padded.height - height) / 2)
    return padded.crop((left, top, left + width, top + height))
