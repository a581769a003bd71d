"""Render the HTML of the demo page: the run's description and one card per image."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from flowertune.data.image import UnreadableImageError, decode_image, image_bytes
from flowertune.demo.answer import Explanation, Neighbor
from flowertune.errors import printable
from flowertune.inference.predictor import UnreadableImage
from flowertune.metrics import reported_split

THUMBNAIL_SIDE = 112  # pixels of a training image
MAP_WEIGHT = 0.6  # of the relevance map, over the gray image


def lead(run: str, results: dict[str, Any], classes: int) -> str:
    """Describe the model and its accuracy, above the upload box."""
    split = reported_split(results["splits"])
    metrics = results["splits"][split]
    low, high = (f"{100 * share:.1f}" for share in metrics["top1_interval"])
    return (
        f"<h1>{_text(run)}</h1>\n"
        f"<p>{_text(results['method'])} on {_text(results['backbone'])} ({_text(results['tag'])}),"
        f" {classes:,} classes; top-1 {100 * metrics['top1']:.1f}% ({low} to {high}) on"
        f" {metrics['n']:,} {split} images. Images of anything else are also predicted as one of"
        " these classes.</p>\n"
    )


def render_card(name: str, result: Explanation | UnreadableImage, caption: str) -> str:
    """Render the card of one image; `caption` describes the training images."""
    if isinstance(result, UnreadableImage):
        return (
            f'<article class="bad"><h2>{_text(name)}</h2>\n'
            f"<p>Unreadable image: {_text(result.reason)}.</p></article>\n"
        )
    first = result.classes[0]
    picture = Image.fromarray(np.ascontiguousarray(result.pixels.transpose(1, 2, 0)))
    html = _figure(picture, "input of the model", f"{name}, as input of the model")
    if result.relevance is None:
        html += "<p>This backbone does not support patch relevance.</p>\n"
    else:
        note = f"brightest: patches of this image that support {first} most"
        html += _figure(_overlay(picture, result.relevance), note, f"The same image, {note}")
    ranked = "".join(map(_bar, result.classes, result.probabilities))
    nearest = "".join(map(_neighbor, result.nearest))
    return (
        f"<article><h2>{_text(name)}</h2>\n"
        f'<div class="answer"><div class="seen">{html}</div>\n'
        f'<ol class="ranked">\n{ranked}</ol></div>\n'
        f"<h3>{_text(caption)}</h3>\n"
        + (f'<ul class="nearest">\n{nearest}</ul>\n' if nearest else "")
        + "</article>\n"
    )


def status(done: int, total: int) -> str:
    """Render the progress, which screen readers announce."""
    text = "" if not total else f"{done} of {total} images done"
    return f'<p role="status">{text}</p>\n'


def left_out(count: int, limit: int) -> str:
    """Render how many images exceed the limit."""
    if not count:
        return ""
    return (
        f'<p role="alert">{count:,} left out: at most {limit} images at once; use'
        " flowertune predict for a folder.</p>\n"
    )


def _bar(label: str, probability: float) -> str:
    share = 100 * probability
    return (
        f'<li><span class="name">{_text(label)}</span><span class="share">{share:.1f}%</span>'
        f'<span class="bar" style="width: {share:.2f}%"></span></li>\n'
    )


def _neighbor(neighbor: Neighbor) -> str:
    label = _text(neighbor.label)
    try:
        image = decode_image(image_bytes(neighbor.path))
    except UnreadableImageError as error:  # removed since the page was opened
        tag = f'<span class="gone">{_text(str(error))}</span>'
    else:
        image.thumbnail((2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
        tag = _image_tag(image, f"Training image of {neighbor.label}")
    file_name = _text(neighbor.path.name)
    return (
        f'<li title="{file_name}">{tag}<span class="name">{label}</span>'
        f'<span class="share">{neighbor.similarity:.2f}</span></li>\n'
    )


def _overlay(picture: Image.Image, relevance: NDArray[np.float32]) -> Image.Image:
    """Blend a relevance map (rows, columns) in [0, 1] over the gray image."""
    smooth = Image.fromarray(relevance).resize(picture.size, Image.Resampling.BILINEAR)
    # inferno gets steadily brighter, so it also works for color-blind readers
    colors = Image.fromarray(colormaps["inferno"](np.asarray(smooth), bytes=True)[..., :3])
    return Image.blend(picture.convert("L").convert("RGB"), colors, MAP_WEIGHT)


def _figure(image: Image.Image, caption: str, alternative: str) -> str:
    tag = _image_tag(image, alternative)
    return f"<figure>{tag}<figcaption>{_text(caption)}</figcaption></figure>"


def _image_tag(image: Image.Image, alternative: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{content}" alt="{_text(alternative)}">\n'


def _text(text: str | Path) -> str:
    return escape(printable(text))
