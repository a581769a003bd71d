"""Render the demo page's HTML: the run's description and a card for each image."""

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

THUMBNAIL_SIDE = 112  # pixels of a training photo
MAP_WEIGHT = 0.6  # of the map, over the picture in gray


def lead(run: str, results: dict[str, Any], classes: int) -> str:
    """Describe the model and its accuracy, above the upload box."""
    split = reported_split(results["splits"])
    metrics = results["splits"][split]
    low, high = (f"{100 * share:.1f}" for share in metrics["top1_interval"])
    return (
        f"<h1>{_text(run)}</h1>\n"
        f"<p>{_text(results['method'])} on {_text(results['backbone'])} ({_text(results['tag'])}),"
        f" {classes:,} classes; top-1 {100 * metrics['top1']:.1f} % ({low} to {high}) on"
        f" {metrics['n']:,} {split} photos. A photo of anything else is taken for one of these"
        " classes as well.</p>\n"
    )


def render_card(name: str, result: Explanation | UnreadableImage, caption: str) -> str:
    """Render the card of one image; `caption` describes the training images."""
    if isinstance(result, UnreadableImage):
        return (
            f'<article class="bad"><h2>{_text(name)}</h2>\n'
            f"<p>This file gives no picture: {_text(result.reason)}.</p></article>\n"
        )
    first = result.classes[0]
    picture = Image.fromarray(np.ascontiguousarray(result.pixels.transpose(1, 2, 0)))
    html = _figure(picture, "what the model was shown", f"{name}, as the model was shown it")
    if result.relevance is None:
        html += "<p>This backbone's image tower does not tell which patches mattered.</p>\n"
    else:
        note = f"brightest: the patches that, in this photo, speak most for {first}"
        html += _figure(_overlay(picture, result.relevance), note, f"The same, {note}")
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
    """Render the progress as a status that screen readers announce."""
    text = "" if not total else f"{done} of {total} answered"
    return f'<p role="status">{text}</p>\n'


def left_out(count: int, limit: int) -> str:
    """Render how many images exceed the limit of the page."""
    if not count:
        return ""
    return (
        f'<p role="alert">{count:,} more were left out: the page takes {limit} at once;'
        " flowertune predict takes a folder.</p>\n"
    )


def _bar(label: str, probability: float) -> str:
    share = 100 * probability
    return (
        f'<li><span class="name">{_text(label)}</span><span class="share">{share:.1f} %</span>'
        f'<span class="bar" style="width: {share:.2f}%"></span></li>\n'
    )


def _neighbor(neighbor: Neighbor) -> str:
    label = _text(neighbor.label)
    try:
        image = decode_image(image_bytes(neighbor.path))
    except UnreadableImageError as error:  # since the page was opened
        tag = f'<span class="gone">{_text(str(error))}</span>'
    else:
        image.thumbnail((2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
        tag = _image_tag(image, f"A training photo of {neighbor.label}")
    file_name = _text(neighbor.path.name)
    return (
        f'<li title="{file_name}">{tag}<span class="name">{label}</span>'
        f'<span class="share">{neighbor.similarity:.2f}</span></li>\n'
    )


def _overlay(picture: Image.Image, relevance: NDArray[np.float32]) -> Image.Image:
    """Blend a relevance map (rows, columns) in [0, 1] over the picture in gray.

    matplotlib's inferno: dark to bright, also for who does not see its colors.
    """
    smooth = Image.fromarray(relevance).resize(picture.size, Image.Resampling.BILINEAR)
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
