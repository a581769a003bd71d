"""Style figures by matplotlib, whose colors follow the page that embeds them."""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from flowertune import files

INK = "#1d2329"  # of text and axes: the page's own, in light and in dark
SERIES = ("#0b62b4", "#b3440b", "#17754a", "#7d3fa6", "#8a6a00", "#b0245f")
MARKERS = "osD^vPX*<>"
DOTS = 120  # an inch
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "flowertune",  # the same figure, the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a name with dollars is a name
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


@contextmanager
def settings() -> Iterator[None]:
    """Apply the style to text that is added while the body runs, such as names."""
    with warnings.catch_warnings(), rc_context(_SETTINGS):
        # the page's reader has the letters that the font at hand lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def new_figure(width: float, height: float, **grid: Any) -> tuple[MatplotlibFigure, list[Axes]]:
    """Create a figure of so many inches with empty axes, without display or state.

    grid: options of `Figure.subplots`. Text that is put into it later is to be given INK.
    """
    with settings():
        figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
        figure.subplots(**grid)
    return figure, figure.axes


def add_legend(axes: Axes, **options: Any) -> None:
    """Add a legend without a frame. options: of matplotlib's."""
    axes.legend(labelcolor=INK, frameon=False, **options)


@dataclass(frozen=True)
class Figure:
    """Figure with a file name, a caption and an alternative text."""

    name: str
    figure: MatplotlibFigure
    caption: str
    alternative: str

    @cached_property
    def svg(self) -> str:
        """Render for a file, once: it takes a tenth of a second, half of it for the layout."""
        text = io.StringIO()
        with settings():
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        self.figure.set_layout_engine("none")  # the PNG has the same
        return text.getvalue()

    @property
    def themed_svg(self) -> str:
        """Render in the colors of its page."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = svg.replace(INK, "currentColor")
        for number, color in enumerate(SERIES, start=1):
            svg = svg.replace(color, f"var(--series-{number})")
        # several stand in one page, and matplotlib gives all the same names
        prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
        svg = re.sub(r'(?<= id=")', f"f{prefix}-", svg)
        return re.sub(r'(?<=url\(#)|(?<=href="#)', f"f{prefix}-", svg)

    def save(self, folder: Path) -> None:
        """Save as name.png and name.svg."""
        svg, png = self.svg, io.BytesIO()
        with settings():
            self.figure.savefig(
                png, format="png", dpi=DOTS, facecolor="white", metadata={"Software": None}
            )
        files.write_bytes(folder / f"{self.name}.png", png.getvalue())
        files.write_text(folder / f"{self.name}.svg", svg)
