"""Save and load the state of a training: safetensors and JSON, never a pickle."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from flowertune import files
from flowertune.models.serialization import to_safetensors
from flowertune.runs.directory import CHECKPOINTS_KEPT, Run

STATE, TENSORS = "state.json", "tensors.safetensors"

State = tuple[dict[str, Any], dict[str, Tensor]]  # plain values, and tensors on the CPU by name


def save(run: Run, epochs: int, step: int, state: State) -> None:
    """Save the state after so many epochs and steps into the run; older ones but one go.

    Raises files.DiskFullError, or another OSError; what was saved before is there then.
    """
    values, tensors = state
    path = run.checkpoint(epochs, step)
    if path.exists():  # gone on from, and stopped before the next step
        return
    path.parent.mkdir(exist_ok=True)
    state_file = json.dumps(values, allow_nan=False).encode()  # long: without indents it is quick
    files.write_folder(path, {STATE: state_file, TENSORS: to_safetensors(tensors)})
    for old in run.checkpoints()[CHECKPOINTS_KEPT:]:
        shutil.rmtree(old)


def load(path: Path) -> State:
    """Read a state from `save`; the caller has verified that the files are whole."""
    values = json.loads((path / STATE).read_text(encoding="utf-8"))
    return values, load_file(path / TENSORS)
