"""Export as ONNX, for ONNX Runtime and other ONNX readers."""

import io
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from flowertune import __version__
from flowertune.errors import ExportError, one_line
from flowertune.export.graph import INPUT, OUTPUT, trace
from flowertune.inference.predictor import Predictor
from flowertune.models.pretrained import quiet

PACKAGES: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
LIBRARY = "onnx"
BUNDLED: tuple[str, ...] = ("preprocess.py",)
MODEL = "model.onnx"
DATA = "model.onnx.data"
# bytes of weights; protobuf ends at 2^31, with all that is beside them
LARGEST_FILE = 2**31 - 2**26


def unsupported_reason(model: Predictor) -> str | None:
    """Every model is supported."""
    return None


def write(model: Predictor, folder: Path) -> dict[str, str]:
    """Write model.onnx: normalized images (B, 3, H, W) to logits (B, C), B from 1.

    Its metadata_props hold `labels` and `preprocessing` as JSON.
    """
    program = trace(model)
    with quiet(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of its own later versions
        onnx_program = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: "batch"}},  # traced so already; here it is the name
            dynamo=True,
            verbose=False,
        )
    assert onnx_program is not None
    onnx_program.model.metadata_props.update(
        labels=json.dumps(model.class_names, ensure_ascii=False),
        preprocessing=json.dumps(model.preprocessing.to_dict()),
        flowertune=__version__,
        run=model.run.name,
    )
    for node in onnx_program.model.graph:
        node.metadata_props.clear()  # where in this machine's files each operation stands
    is_large = (
        sum(tensor.nbytes for tensor in model.classifier.state_dict().values()) > LARGEST_FILE
    )
    onnx_program.save(str(folder / MODEL), external_data=is_large)
    descriptions = {
        MODEL: "normalised images to logits, any number at once; labels and preprocessing are in "
        "its metadata, too"
    }
    if is_large:
        descriptions[DATA] = f"the weights of {MODEL}, which looks for them beside it"
    return descriptions


def load(model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the exported folder in ONNX Runtime, on the CPU.

    Raises ExportError, now or of a batch, where it cannot.
    """
    import onnxruntime

    with _runtime_errors():
        session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])

    def logits(images: Tensor) -> Tensor:
        with _runtime_errors():
            (output,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(output)

    return logits


@contextmanager
def _runtime_errors() -> Iterator[None]:
    try:
        yield
    # its own have no class in common but this one
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot run what was made: {one_line(error)}; nothing was written"
        ) from error


def code(model: Predictor) -> str:
    """Usage example, run in the exported folder."""
    return f"""\
import json, onnxruntime
from preprocess import load

model, labels = onnxruntime.InferenceSession("{MODEL}"), json.load(open("labels.json"))
(logits,) = model.run(["{OUTPUT}"], {{"{INPUT}": load("photo.jpg")}})
print([labels[place] for place in logits.argmax(1)])"""
