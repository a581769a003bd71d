"""Photos in a page: what a model took for something else, and what augmentation makes of them."""

from collections.abc import Sequence
from typing import Any

from flowertune.errors import printable
from flowertune.report.html.page import escaped, picture, table
from flowertune.runs.finished import Prediction

_Photo = dict[str, Any]


def gallery(name: str, photos: Sequence[_Photo], predictions: Sequence[Prediction]) -> str:
    """A card a photo; each opens what else is known of it. `name` tells galleries apart."""
    cards, details = "", ""
    for number, photo in enumerate(photos, start=1):
        place = f"{name}-{number}"
        cards += _card(place, photo, predictions[photo["row"]])
        details += _detail(place, photo, predictions[photo["row"]])
    return f'<ul class="gallery">\n{cards}</ul>\n{details}'


def augmented(photos: Sequence[_Photo]) -> str:
    """A row a photo: as it is, then as a training meets it."""
    rows = ""
    for photo in photos:
        label = photo["label"]
        images = picture(photo["picture"], f"{label}, as it is")
        for number, variant in enumerate(photo["variants"], start=1):
            images += picture(variant, f"{label}, variant {number}")
        caption = escaped(printable(label))
        rows += f"<figure>\n{images}<figcaption>{caption}</figcaption>\n</figure>\n"
    return f'<div class="variants">\n{rows}</div>\n'


def _card(place: str, photo: _Photo, prediction: Prediction) -> str:
    image = picture(photo["picture"], f"A photo of {prediction.label}")
    said = f"<b>{escaped(prediction.answer)}</b><span>{_percent(prediction.probability)}</span>"
    if not prediction.is_correct:
        said += f"<span>is {escaped(prediction.label)}</span>"
    return f'<li><button type="button" popovertarget="{place}">{image}{said}</button></li>\n'


def _detail(place: str, photo: _Photo, prediction: Prediction) -> str:
    nearest = photo["nearest"]
    label, path = printable(nearest["label"]), printable(nearest["path"])
    itself = picture(photo["picture"], f"A photo of {prediction.label}")
    neighbor = picture(nearest["picture"], f"A training photo of {label}")
    said = f"the nearest training photo: {label}, cosine {nearest['similarity']:.2f}; {path}"
    title = f"{prediction.label}, taken for {prediction.answer}"
    if prediction.is_correct:
        title = f"{prediction.label}, recognised"
    rows = [[name, _percent(probability)] for name, probability in prediction.ranked]
    return (
        f'<div popover id="{place}" role="dialog" aria-label="{escaped(title)}">\n'
        f"<p><b>{escaped(title)}</b></p>\n"
        '<div class="pair">\n'
        f"<figure>{itself}<figcaption>{escaped(printable(prediction.path))}</figcaption></figure>\n"
        f"<figure>{neighbor}<figcaption>{escaped(said)}</figcaption></figure>\n"
        "</div>\n"
        + table(["class", "probability"], rows, "the likeliest classes", [1])
        + f'<button type="button" autofocus popovertarget="{place}" popovertargetaction="hide">'
        "Close</button>\n</div>\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
