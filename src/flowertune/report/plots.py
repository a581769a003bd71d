"""Figures by matplotlib, whose colours follow the page that they stand in. Imported when drawn."""

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowertune import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1d2329"  # of text and axes: the page's own, in light and in dark
SERIES = ("#0b62b4", "#b3440b", "#17754a", "#7d3fa6", "#8a6a00", "#b0245f")
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "flowertune",  # the same figure, the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


def new_figure(width: float, height: float) -> "Figure":
    """A figure of so many inches with empty axes, `axes[0]`; needs no screen, keeps no state.

    Text that is put into it later is to be given INK.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.add_subplot()
    return figure


def logarithmic(axes: "Axes") -> None:
    """A logarithmic axis across, its numbers written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, place: f"{x:,g}"))


def themed_svg(figure: "Figure") -> str:
    """The figure as SVG to stand in a page: its colours are the page's."""
    svg = _svg(figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    for number, colour in enumerate(SERIES, start=1):
        svg = svg.replace(colour, f"var(--series-{number})")
    # several stand in one page, and matplotlib gives all the same names
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(?<= id=")', f"f{prefix}-", svg)
    return re.sub(r'(?<=url\(#)|(?<=href="#)', f"f{prefix}-", svg)


def save(figure: "Figure", folder: Path, name: str) -> None:
    """The figure as name.png and name.svg."""
    from matplotlib import rc_context

    pixels = io.BytesIO()
    with rc_context(_SETTINGS):
        figure.savefig(
            pixels, format="png", dpi=150, facecolor="white", metadata={"Software": None}
        )
    files.write_bytes(folder / f"{name}.png", pixels.getvalue())
    files.write_text(folder / f"{name}.svg", _svg(figure))


def _svg(figure: "Figure") -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context(_SETTINGS):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()
