"""LoRA (Hu et al., 2021, arXiv:2106.09685) on the image tower: ordinary peft on Linear layers."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import peft
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from flowertune import files
from flowertune.errors import UsageError, one_line
from flowertune.models.adapters.lora_linear import fuse_lora
from flowertune.models.attention import is_unfused
from flowertune.models.backbone import Backbone
from flowertune.seeding import seeded

TARGETS = {
    "q": ("attn.q_proj",),
    "k": ("attn.k_proj",),
    "v": ("attn.v_proj",),
    "out": ("attn.out_proj",),
    "mlp": ("mlp.c_fc", "mlp.c_proj"),
}
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PEFT_PREFIX = "base_model.model."  # what `PeftModel` puts before the names of what it wraps


def adapted_layers(backbone: Backbone, layers: Sequence[int] | None) -> list[int]:
    """Resolve `layers` (block numbers from 0, None: all) to the blocks that LoRA adapts, in order.

    Raises UsageError for towers without split attention, and layers out of range.
    """
    n_blocks = len(_blocks(backbone))
    selected = list(range(n_blocks)) if layers is None else sorted(set(layers))
    out_of_range = [layer for layer in selected if not 0 <= layer < n_blocks]
    if out_of_range:
        raise UsageError(
            f"model.layers={list(layers or ())}: {backbone.name} has the layers"
            f" 0 to {n_blocks - 1}, not {out_of_range[0]}"
        )
    return selected


def add_lora(
    backbone: Backbone,
    *,
    rank: int,
    alpha: float,
    rank_stabilized: bool,
    dropout: float,
    targets: Sequence[str],
    layers: Sequence[int] | None,
    seed: int,
) -> int:
    """Put LoRA into the image tower in place; returns the number of adapted Linear layers.

    The update of a layer is B A x times alpha / rank (alpha / sqrt(rank) where `rank_stabilized`,
    Kalajdzievski 2023, arXiv:2312.03732); A is drawn from (seed, "lora"), B is zero, so nothing
    changes until the first step. `targets` from q, k, v, out, mlp; `layers` counts blocks from 0,
    None for all. Raises UsageError for towers without split attention, and layers out of range.
    """
    selected = adapted_layers(backbone, layers)
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets or not selected:
        setting = f"model.targets={list(targets)}" if unknown or not targets else "model.layers=[]"
        raise UsageError(f"{setting}: choose at least one; the targets are {', '.join(TARGETS)}")
    suffixes = [suffix for target in TARGETS if target in targets for suffix in TARGETS[target]]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=rank_stabilized,
        lora_dropout=dropout,
        # A pattern and not a list of ends: other parts of a tower have projections too.
        target_modules=(
            rf"transformer\.resblocks\.({'|'.join(map(str, selected))})"
            rf"\.({'|'.join(map(re.escape, suffixes))})"
        ),
        bias="none",
    )
    with seeded(seed, "lora"):
        peft.get_peft_model(backbone.visual, config)
    lora_layers = _lora_layers(backbone.visual)
    assert len(lora_layers) == len(selected) * len(suffixes)
    fuse_lora(lora_layers)
    return len(lora_layers)


@contextmanager
def merged_lora(visual: nn.Module) -> Iterator[None]:
    """Merge LoRA's updates into the frozen weights inside the context, where they cost nothing.

    Afterwards the frozen weights are the tensors that they were: adding an update and taking it
    away again, as peft does, would leave rounding in them. A tower without LoRA stays as it is.
    """
    bases: list[tuple[LoraLayer, Tensor]] = []
    try:
        for layer in _lora_layers(visual):
            weight = layer.get_base_layer().weight
            bases.append((layer, weight.data))
            weight.data = _merged_weight(layer)
            layer.merged_adapters.extend(layer.active_adapters)
        yield
    finally:
        for layer, base in bases:
            layer.get_base_layer().weight.data = base
            layer.merged_adapters.clear()


def merge_lora(visual: nn.Module) -> None:
    """Merge LoRA's updates into the weights for good; its layers become Linear ones again.

    The tower then computes the bits that it does inside `merged_lora`.
    """
    for name, layer in list(visual.named_modules()):
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            base.weight.data = _merged_weight(layer)
            parent, _, last = name.rpartition(".")
            setattr(visual.get_submodule(parent), last, base)


def save_adapter(visual: nn.Module, folder: Path) -> None:
    """Write the LoRA of an image tower in PEFT format: two files, no more.

    `peft.PeftModel.from_pretrained(<tower, attention split>, folder)` reads them. With the names
    `transformer.resblocks` -> `vision_model.encoder.layers`, `attn` -> `self_attn` (`mlp.c_fc`,
    `mlp.c_proj` -> `mlp.fc1`, `mlp.fc2`) the keys are those of transformers' CLIP.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: peft.LoraConfig = visual.__dict__["peft_config"]["default"]
    config.save_pretrained(str(folder))
    files.write_bytes(folder / ADAPTER_FILES[1], save(_state(visual), metadata={"format": "pt"}))


def load_adapter(backbone: Backbone, folder: Path) -> None:
    """Load a saved LoRA into the image tower in place, frozen.

    Raises UsageError where the folder has no adapter, or one for another backbone.
    """
    for name in ADAPTER_FILES:  # without the second, peft would look for a pickle
        if not (folder / name).is_file():
            raise UsageError(f"no adapter in {folder}: {name} is missing")
    _blocks(backbone)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is refused below
            peft.PeftModel.from_pretrained(backbone.visual, str(folder))
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(
            f"the adapter in {folder} does not fit {backbone.name} {backbone.tag}:"
            f" {one_line(error)}"
        ) from error
    # peft only warns where the file lacks matrices of this tower, or has some of a deeper one.
    saved_keys = load_file(folder / ADAPTER_FILES[1]).keys()
    if different := sorted(saved_keys ^ _state(backbone.visual).keys()):
        raise UsageError(
            f"the adapter in {folder} does not fit {backbone.name} {backbone.tag}:"
            f" {different[0]} is in one of them only"
        )
    fuse_lora(_lora_layers(backbone.visual))


def _blocks(backbone: Backbone) -> Sequence[nn.Module]:
    """The transformer blocks of the image tower, each with split attention."""
    blocks = getattr(getattr(backbone.visual, "transformer", None), "resblocks", ())
    if len(blocks) == 0 or not all(is_unfused(block.attn) for block in blocks):
        raise UsageError(
            f"model=lora needs a vision transformer of open_clip's own; the image tower of"
            f" {backbone.name} is a {type(backbone.visual).__name__}: use model=linear_probe or"
            " model=full"
        )
    return blocks


def _state(visual: nn.Module) -> dict[str, Tensor]:
    """LoRA's matrices under the names that a `PeftModel` gives them, on the CPU."""
    state = peft.get_peft_model_state_dict(visual, save_embedding_layers=False)
    return {PEFT_PREFIX + key: value.detach().cpu() for key, value in state.items()}


def _merged_weight(layer: LoraLayer) -> Tensor:
    """The frozen weights with the update added: (D_out, D_in)."""
    (adapter,) = layer.active_adapters
    return layer.get_base_layer().weight.data + layer.get_delta_weight(adapter).detach()  # type: ignore[no-any-return]


def _lora_layers(visual: nn.Module) -> list[LoraLayer]:
    return [module for module in visual.modules() if isinstance(module, LoraLayer)]
