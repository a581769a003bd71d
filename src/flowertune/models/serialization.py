"""Save and load a trained model without its backbone: the adapter/ folder of a run.

adapter_config.json, adapter_model.safetensors   LoRA or DoRA in PEFT format
prompts.json, prompts.safetensors                visual prompts
visual.safetensors                               parameters of the image tower, all or some
head.safetensors                                 the head
model.json                                       backbone, head, labels, preprocessing
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from flowertune import files
from flowertune.config.schema import Config
from flowertune.models.adapters.registry import find_adapter
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.factory import load_head


def save_classifier(
    folder: Path,
    config: Config,
    backbone: Backbone,
    classifier: Classifier,
    class_names: Sequence[str],
) -> None:
    """Write the folder's files from the classifier's present weights."""
    classifier.adapter.save(classifier.visual, classifier.prompts, folder)
    save_weights(folder / "head.safetensors", classifier.head.state_dict())
    files.write_json(
        folder / "model.json",
        {
            "backbone": {
                **asdict(config.backbone),
                "weights_sha256": backbone.weights_sha256,
                "activation": backbone.activation,
            },
            "model": asdict(config.model),
            "head": asdict(config.head),
            "classes": list(class_names),
            "preprocessing": backbone.preprocessing.to_dict(),
        },
    )


def load_classifier(
    folder: Path, config: Config, backbone: Backbone
) -> tuple[Classifier, tuple[str, ...]]:
    """Load the classifier onto the CPU, and the names of its classes.

    backbone: the one that it was trained on, new; an adapter is put into it in place.

    Raises:
        UsageError: the adapter is missing or damaged, or does not fit the backbone.
        ValueError: another file is missing or damaged; it names the file.
    """
    adapter, name = find_adapter(config.model), "head.safetensors"
    prompts = adapter.load(backbone, folder)
    try:
        state = load_file(folder / name)
        name = "model.json"
        classes = json.loads((folder / name).read_text(encoding="utf-8"))["classes"]
        head = load_head(config.head, backbone, len(classes), state)  # as many as it has
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder.name}/{name}") from error
    return Classifier(backbone, head, adapter, prompts), tuple(classes)


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write CPU tensors by name."""
    files.write_bytes(path, to_safetensors(state))


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialize tensors to the content of a safetensors file."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(contiguous)  # type: ignore[no-any-return]
