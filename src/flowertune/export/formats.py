"""The formats by name. Each is a module with the same functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from flowertune.export import onnx_graph, open_clip_directory, peft_adapter, torch_program
from flowertune.export.exportable import Exportable


class Format(Protocol):
    """What another program can open.

    PACKAGES: of the extra `export`, needed to make it. LIBRARY: its name on the Hub. BESIDE: the
    files of export/beside/ that come with it. `refusal`: why it cannot hold this model; `read`:
    normalised images (B, 3, H, W) to logits (B, C) by the other program; `files`: what `write`
    leaves, with what each is; `code`: Python that uses it in its folder.
    """

    PACKAGES: tuple[str, ...]
    LIBRARY: str
    BESIDE: tuple[str, ...]

    def refusal(self, model: Exportable) -> str | None: ...
    def write(self, model: Exportable, folder: Path) -> None: ...
    def read(self, model: Exportable, folder: Path) -> Callable[[Tensor], Tensor]: ...
    def files(self, model: Exportable) -> dict[str, str]: ...
    def code(self, model: Exportable) -> str: ...


FORMATS: dict[str, Format] = {
    "open_clip": open_clip_directory,
    "peft": peft_adapter,
    "onnx": onnx_graph,
    "torch": torch_program,
}
