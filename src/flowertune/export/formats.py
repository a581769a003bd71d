"""Register the export formats by name. Each is a module that implements `Format`."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from flowertune.export import graph, onnx, open_clip, peft
from flowertune.inference.predictor import Predictor


class Format(Protocol):
    """Export format that another library opens.

    PACKAGES: of the extra `export`, needed to make it. LIBRARY: its name on the Hub. BUNDLED: the
    files of export/bundled/ that come with it. `unsupported_reason`: why it cannot hold this model;
    `write`: fill a folder, and say what each file is; `load`: normalized images (B, 3, H, W) to
    logits (B, C) by the other program; `code`: Python that uses it in its folder.
    """

    PACKAGES: tuple[str, ...]
    LIBRARY: str
    BUNDLED: tuple[str, ...]

    def unsupported_reason(self, model: Predictor) -> str | None: ...
    def write(self, model: Predictor, folder: Path) -> dict[str, str]: ...
    def load(self, model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]: ...
    def code(self, model: Predictor) -> str: ...


FORMATS: dict[str, Format] = {
    "open_clip": open_clip,
    "peft": peft,
    "onnx": onnx,
    "torch": graph,
}
