"""Style matplotlib figures, whose colors follow the page that embeds them."""

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

INK = "#1d2329"  # text and axes; on a page, its text color, light or dark
SERIES = ("#0b62b4", "#b3440b", "#17754a", "#7d3fa6", "#8a6a00", "#b0245f")
MARKERS = "osD^vPX*<>"
DOTS = 120  # per inch
_SETTINGS: Any = {
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "flowertune",  # same figure, same file
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # names may contain dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


@contextmanager
def settings() -> Iterator[None]:
    """Apply the style while the body adds text, such as names of classes."""
    with warnings.catch_warnings(), rc_context(_SETTINGS):
        # a browser finds a font with these letters
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def new_figure(width: float, height: float, **grid: Any) -> tuple[MatplotlibFigure, list[Axes]]:
    """Create a figure with empty axes, in inches, without a display or pyplot's state.

    grid: options of `Figure.subplots`. Text that is added later needs color=INK or `settings`.
    """
    with settings():
        figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
        figure.subplots(**grid)
    return figure, figure.axes


def add_legend(axes: Axes, **options: Any) -> None:
    """Add a legend without a frame. options: those of `Axes.legend`."""
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
        """SVG for a file; cached, as rendering takes 0.1 s, half of it for the layout."""
        text = io.StringIO()
        with settings():
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        self.figure.set_layout_engine("none")  # the PNG uses the same layout
        return text.getvalue()

    @property
    def themed_svg(self) -> str:
        """SVG in the colors of its page."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = svg.replace(INK, "currentColor")
        for number, color in enumerate(SERIES, start=1):
            svg = svg.replace(color, f"var(--series-{number})")
        # ids must be unique on a page, and matplotlib uses the same ids in every figure
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
