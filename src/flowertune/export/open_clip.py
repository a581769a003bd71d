"""Export as a directory that `open_clip.create_model("local-dir:...")` opens."""

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
from torch import Tensor

from flowertune.export import tensors
from flowertune.inference.predictor import Predictor
from flowertune.models.attention import fused_state_dict
from flowertune.models.backbone import CONFIG_FILE, WEIGHT_FILES
from flowertune.models.pretrained import quiet

PACKAGES: tuple[str, ...] = ()
LIBRARY = "open_clip"
BUNDLED: tuple[str, ...] = ()


def unsupported_reason(model: Predictor) -> str | None:
    """Every model that the weights of its image tower hold is supported."""
    outside = model.classifier.adapter.outside_tower
    return None if outside is None else f"open_clip has no {outside}; take onnx or torch"


def write(model: Predictor, folder: Path) -> dict[str, str]:
    """Write the whole model, the adapter merged into the image tower, and the head."""
    backbone = model.backbone
    settings = {
        "model_cfg": backbone.architecture(),
        "preprocess_cfg": backbone.preprocessing.to_dict(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    state = {name: tensor.contiguous() for name, tensor in fused_state_dict(backbone.model).items()}
    tensors.write(folder / WEIGHT_FILES[0], state)
    return {
        CONFIG_FILE: "the architecture and the preprocessing, as open_clip writes them",
        WEIGHT_FILES[0]: "the weights: the trained image tower, and the text tower as it was",
        **tensors.write_head(model, folder),
    }


def load(model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the exported folder in open_clip."""
    with quiet():
        exported = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()
    head = tensors.read_head(model, folder)
    return lambda images: head(exported.encode_image(images, normalize=False))


def code(model: Predictor) -> str:
    """Usage example, run in the exported folder."""
    normalizes = model.classifier.head.as_linear().normalizes
    return f"""\
import json, open_clip, torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")
head, labels = load_file("{tensors.HEAD}"), json.load(open("labels.json"))
images = torch.stack([preprocess(ImageOps.exif_transpose(Image.open("photo.jpg")))])
with torch.no_grad():
    embedding = model.eval().encode_image(images, normalize={normalizes})
logits = embedding @ head["weight"].T + head["bias"]
print([labels[place] for place in logits.argmax(1)])"""
