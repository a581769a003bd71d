"""The export formats by name; each is a module that implements `Format`."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from flowertune.export import graph, onnx, open_clip, peft
from flowertune.inference.predictor import Predictor


class Format(Protocol):
    """Export format for another library.

    PACKAGES: required packages of the extra `export`. LIBRARY: the library's name on the Hub.
    BUNDLED: files of export/bundled/ to add. `unsupported_reason`: why the model cannot be
    exported, or None. `write`: write the files and describe each. `load`: open them in the library,
    to map normalized images (B, 3, H, W) to logits (B, C). `code`: Python example for the folder.
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
