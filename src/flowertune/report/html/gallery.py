"""Render galleries of images: mistakes and augmented training images."""

from collections.abc import Sequence
from typing import Any

from flowertune.errors import printable
from flowertune.report.html.page import escape, image, table
from flowertune.runs.finished import Prediction

_ImageEntry = dict[str, Any]


def gallery(name: str, images: Sequence[_ImageEntry], predictions: Sequence[Prediction]) -> str:
    """Render a card for each image, which opens its details. `name` prefixes the ids."""
    cards, details = "", ""
    for number, entry in enumerate(images, start=1):
        id = f"{name}-{number}"
        cards += _card(id, entry, predictions[entry["row"]])
        details += _detail(id, entry, predictions[entry["row"]])
    return f'<ul class="gallery">\n{cards}</ul>\n{details}'


def augmented_images(images: Sequence[_ImageEntry]) -> str:
    """Render a row for each image: the original, then its augmented variants."""
    rows = ""
    for entry in images:
        label = entry["label"]
        row = image(entry["picture"], f"{label}, as it is")
        for number, variant in enumerate(entry["variants"], start=1):
            row += image(variant, f"{label}, variant {number}")
        caption = escape(printable(label))
        rows += f"<figure>\n{row}<figcaption>{caption}</figcaption>\n</figure>\n"
    return f'<div class="variants">\n{rows}</div>\n'


def _card(id: str, entry: _ImageEntry, prediction: Prediction) -> str:
    thumbnail = image(entry["picture"], f"A photo of {prediction.label}")
    text = f"<b>{escape(prediction.predicted)}</b><span>{_percent(prediction.probability)}</span>"
    if not prediction.is_correct:
        text += f"<span>is {escape(prediction.label)}</span>"
    return f'<li><button type="button" popovertarget="{id}">{thumbnail}{text}</button></li>\n'


def _detail(id: str, entry: _ImageEntry, prediction: Prediction) -> str:
    nearest = entry["nearest"]
    label, path = printable(nearest["label"]), printable(nearest["path"])
    original = image(entry["picture"], f"A photo of {prediction.label}")
    neighbor = image(nearest["picture"], f"A training photo of {label}")
    caption = f"the nearest training photo: {label}, cosine {nearest['similarity']:.2f}; {path}"
    title = f"{prediction.label}, taken for {prediction.predicted}"
    if prediction.is_correct:
        title = f"{prediction.label}, recognised"
    rows = [[name, _percent(probability)] for name, probability in prediction.ranked]
    return (
        f'<div popover id="{id}" role="dialog" aria-label="{escape(title)}">\n'
        f"<p><b>{escape(title)}</b></p>\n"
        '<div class="pair">\n'
        f"<figure>{original}<figcaption>{escape(printable(prediction.path))}</figcaption></figure>\n"
        f"<figure>{neighbor}<figcaption>{escape(caption)}</figcaption></figure>\n"
        "</div>\n"
        + table(["class", "probability"], rows, "the likeliest classes", [1])
        + f'<button type="button" autofocus popovertarget="{id}" popovertargetaction="hide">'
        "Close</button>\n</div>\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
