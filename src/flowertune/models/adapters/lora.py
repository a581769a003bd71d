"""LoRA (Hu et al., 2021, arXiv:2106.09685): train low-rank updates of Linear layers with peft."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import peft
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from flowertune import files
from flowertune.config.model import LoraConfig
from flowertune.errors import UsageError, one_line
from flowertune.models.adapters.lora_linear import fuse_lora
from flowertune.models.attention import Attention
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
PEFT_PREFIX = "base_model.model."  # `PeftModel` adds it to the names of the wrapped model


@dataclass(frozen=True)
class PeftAdapter:
    """LoRA or DoRA as implemented by peft.

    The update of a layer is B A x times alpha / rank, or times alpha / sqrt(rank) if
    `rank_stabilized` (Kalajdzievski 2023, arXiv:2312.03732). A is drawn from (seed, "lora") and
    B is zero, so the outputs are unchanged until the first step.
    """

    config: type[LoraConfig]
    use_dora: bool = False
    is_peft: bool = True
    outside_tower: None = None

    def count(self, settings: LoraConfig, backbone: Backbone) -> int:
        """Count the parameters; raises UsageError for other towers and for missing layers."""
        _, layers = _targets(settings, backbone)
        inputs = sum(layer.in_features for layer in layers)
        outputs = sum(layer.out_features for layer in layers)
        return settings.rank * (inputs + outputs) + self.use_dora * outputs

    def attach(self, settings: LoraConfig, backbone: Backbone, seed: int) -> None:
        """Add LoRA to the image tower in place; raises UsageError like `count`."""
        pattern, _ = _targets(settings, backbone)
        config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            use_rslora=settings.rank_stabilized,
            use_dora=self.use_dora,
            lora_dropout=settings.dropout,
            target_modules=pattern,
            bias="none",
        )
        with seeded(seed, "lora"):
            peft.get_peft_model(backbone.visual, config)
        fuse_lora(backbone.visual)

    def training_modules(self, visual: nn.Module) -> list[nn.Module]:
        """Return the dropouts, or DoRA's layers, whose own mode switches their dropout."""
        layers = [module for module in visual.modules() if isinstance(module, LoraLayer)]
        return layers if self.use_dora else [layer.lora_dropout for layer in layers]

    def save(self, visual: nn.Module, prompts: object, folder: Path) -> None:
        """Write the two files of PEFT format.

        `peft.PeftModel.from_pretrained(<tower with split attention>, folder)` reads them. Renaming
        `transformer.resblocks` to `vision_model.encoder.layers`, `attn` to `self_attn` and
        `mlp.c_fc`, `mlp.c_proj` to `mlp.fc1`, `mlp.fc2` gives the keys of transformers' CLIP.
        """
        config: peft.LoraConfig = visual.__dict__["peft_config"]["default"]
        with TemporaryDirectory(prefix=".adapter.", dir=folder) as staging:
            config.save_pretrained(staging)  # not atomic; `files.write_bytes` is
            content = (Path(staging) / ADAPTER_FILES[0]).read_bytes()
        files.write_bytes(folder / ADAPTER_FILES[0], content)
        content = save(_peft_state(visual), metadata={"format": "pt"})
        files.write_bytes(folder / ADAPTER_FILES[1], content)

    def load(self, backbone: Backbone, folder: Path) -> None:
        """Load a saved adapter; raises UsageError if it is missing or for another backbone."""
        for name in ADAPTER_FILES:  # without the second, peft would look for a pickle
            if not (folder / name).is_file():
                raise UsageError(f"no adapter in {folder}: {name} is missing")
        _blocks(backbone, self.config.name)
        unfit = f"the adapter in {folder} does not fit {backbone.name} {backbone.tag}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the same mismatches are errors below
                peft.PeftModel.from_pretrained(backbone.visual, str(folder))
        except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise UsageError(f"{unfit}: {one_line(error)}") from error
        # peft only warns about matrices that the file lacks, or has for a deeper tower.
        saved_keys = load_file(folder / ADAPTER_FILES[1]).keys()
        if different := sorted(saved_keys ^ _peft_state(backbone.visual).keys()):
            raise UsageError(f"{unfit}: only one of them has {different[0]}")
        fuse_lora(backbone.visual)

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        """Merge the updates into the frozen weights, so that they cost no time.

        The undo function restores the original tensors: subtracting an update, as peft does,
        would leave rounding errors.
        """
        layers = {
            name: layer for name, layer in visual.named_modules() if isinstance(layer, LoraLayer)
        }
        merged = [_merged_weight(layer) for layer in layers.values()]  # before any is replaced
        frozen = [layer.get_base_layer().weight.data for layer in layers.values()]

        def unmerge() -> None:
            for (name, layer), weight in zip(layers.items(), frozen, strict=True):
                layer.get_base_layer().weight.data = weight
                visual.set_submodule(name, layer)

        for (name, layer), weight in zip(layers.items(), merged, strict=True):
            layer.get_base_layer().weight.data = weight
            visual.set_submodule(name, layer.get_base_layer())
        return unmerge

    def is_scaled(self, name: str) -> bool:
        """Only B is scaled: the update B A is linear in B, which starts at zero."""
        return ".lora_A." not in name


LORA = PeftAdapter(LoraConfig)


def _targets(settings: LoraConfig, backbone: Backbone) -> tuple[str, list[nn.Linear]]:
    """Return a pattern for the names of the adapted layers, and the layers.

    The pattern matches whole names, as other parts of a tower have projections of the same names.
    """
    n_blocks = len(_blocks(backbone, settings.name))
    chosen = range(n_blocks) if settings.layers is None else sorted(set(settings.layers))
    for layer in chosen:
        if not 0 <= layer < n_blocks:
            raise UsageError(
                f"model.layers={settings.layers}: {backbone.name} has no layer {layer};"
                f" use 0 to {n_blocks - 1}"
            )
    suffixes = [s for target in TARGETS if target in settings.targets for s in TARGETS[target]]
    pattern = (
        rf"transformer\.resblocks\.({'|'.join(map(str, chosen))})"
        rf"\.({'|'.join(map(re.escape, suffixes))})"
    )
    modules = backbone.visual.named_modules()
    linears = [(name, module) for name, module in modules if isinstance(module, nn.Linear)]
    return pattern, [module for name, module in linears if re.fullmatch(pattern, name)]


def _blocks(backbone: Backbone, model: str) -> Sequence[nn.Module]:
    """Return the blocks of the image tower; raises UsageError if their attention is not split."""
    blocks = getattr(getattr(backbone.visual, "transformer", None), "resblocks", ())
    if len(blocks) == 0 or not all(isinstance(block.attn, Attention) for block in blocks):
        raise UsageError(
            f"model={model}: the image encoder of {backbone.name}"
            f" ({type(backbone.visual).__name__}) is not open_clip's own vision transformer; use"
            " model=linear_probe or model=full"
        )
    return blocks


def _peft_state(visual: nn.Module) -> dict[str, Tensor]:
    """Return the trained tensors on the CPU under the names of a `PeftModel`."""
    state = peft.get_peft_model_state_dict(visual, save_embedding_layers=False)
    return {PEFT_PREFIX + key: value.detach().cpu() for key, value in state.items()}


def _merged_weight(layer: LoraLayer) -> Tensor:
    """Return the weights (D_out, D_in) of a plain Linear layer that computes the same."""
    (name,) = layer.active_adapters
    weight = layer.get_base_layer().weight.data
    if name in layer.lora_variant:  # DoRA
        return layer.lora_variant[name].merge_safe(layer, name, weight).detach()  # type: ignore[no-any-return]
    return weight + layer.get_delta_weight(name).detach()  # type: ignore[no-any-return]
