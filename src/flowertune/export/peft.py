"""Export the LoRA alone, for transformers' CLIPVisionModelWithProjection with peft."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from torch import Tensor

from flowertune.export import tensors
from flowertune.export.bundled import transformers_clip
from flowertune.inference.predictor import Predictor, load_run_backbone
from flowertune.models.adapters.lora import ADAPTER_FILES, PEFT_PREFIX
from flowertune.models.attention import fused_state_dict

PACKAGES: tuple[str, ...] = ("transformers",)
LIBRARY = "peft"
BUNDLED: tuple[str, ...] = ("preprocess.py", "transformers_clip.py")


def unsupported_reason(model: Predictor) -> str | None:
    """LoRA and DoRA are supported, on towers that transformers' CLIP has."""
    adapter = model.classifier.adapter
    if not adapter.is_peft:
        formats = "open_clip, onnx or torch" if adapter.outside_tower is None else "onnx or torch"
        return f"peft is for LoRA and DoRA, and this is model={adapter.config.name}; take {formats}"
    reason = transformers_clip.missing_support(model.classifier.visual)
    if reason:
        name = model.backbone.name
        return f"transformers' CLIP cannot be {name}: {reason}; take open_clip, onnx or torch"
    return None


def write(model: Predictor, folder: Path) -> dict[str, str]:
    """Write the run's adapter with transformers' names, and the head."""
    settings_file, weights_file = ADAPTER_FILES
    settings = json.loads((model.run.adapter / settings_file).read_text(encoding="utf-8"))
    weights = safetensors.torch.load_file(model.run.adapter / weights_file)
    state = {
        PEFT_PREFIX + transformers_clip.rename(name.removeprefix(PEFT_PREFIX)): tensor
        for name, tensor in weights.items()
    }
    layers = {name.removeprefix(PEFT_PREFIX).partition(".lora_")[0] for name in state}
    settings["target_modules"] = "|".join(map(re.escape, sorted(layers)))
    settings["inference_mode"] = True
    (folder / settings_file).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    tensors.write(folder / weights_file, state)
    return {
        settings_file: "peft's settings",
        weights_file: "the LoRA, by the names of transformers' CLIPVisionModelWithProjection",
        **tensors.write_head(model, folder),
    }


def load(model: Predictor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the backbone and the exported folder in transformers and peft."""
    import peft

    frozen = load_run_backbone(model.run).visual  # the model's own has LoRA in it
    base = transformers_clip.convert(frozen, fused_state_dict(frozen))
    adapted = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    head = tensors.read_head(model, folder)
    return lambda images: head(adapted(pixel_values=images).image_embeds)


def code(model: Predictor) -> str:
    """Usage example, run in the exported folder."""
    settings = model.config.backbone
    base = f'"{model.backbone.name}", "{model.backbone.tag}"'
    if model.backbone.activation == "quickgelu":
        base += ", force_quick_gelu=True"
    if settings.source != "open_clip" or settings.weights == "random":
        base = '"local-dir:BASE"'  # a place of this machine would be none elsewhere
    normalized = "torch.nn.functional.normalize(embedding)"
    embedding = normalized if model.classifier.head.as_linear().normalizes else "embedding"
    return f"""\
import json, open_clip, torch
from peft import PeftModel
from safetensors.torch import load_file
from preprocess import load
from transformers_clip import convert

base = convert(open_clip.create_model({base}).visual)
model = PeftModel.from_pretrained(base, ".").eval()
head, labels = load_file("{tensors.HEAD}"), json.load(open("labels.json"))
embedding = model(pixel_values=torch.from_numpy(load("photo.jpg"))).image_embeds
logits = {embedding} @ head["weight"].T + head["bias"]
print([labels[place] for place in logits.argmax(1)])"""
