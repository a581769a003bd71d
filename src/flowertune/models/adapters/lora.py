"""LoRA (Hu et al., 2021, arXiv:2106.09685) on the image tower: ordinary peft on Linear layers."""

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
PEFT_PREFIX = "base_model.model."  # what `PeftModel` puts before the names of what it wraps


@dataclass(frozen=True)
class PeftAdapter:
    """LoRA as peft computes it, or DoRA.

    The update of a layer is B A x times alpha / rank (alpha / sqrt(rank) where `rank_stabilized`,
    Kalajdzievski 2023, arXiv:2312.03732); A is drawn from (seed, "lora"), B is zero, so nothing
    changes until the first step.
    """

    config: type[LoraConfig]
    use_dora: bool = False
    is_peft: bool = True
    outside_tower: None = None

    def count(self, settings: LoraConfig, backbone: Backbone) -> int:
        """Count the numbers; raises UsageError for other towers, and layers out of range."""
        _, layers = _targets(settings, backbone)
        inputs = sum(layer.in_features for layer in layers)
        outputs = sum(layer.out_features for layer in layers)
        return settings.rank * (inputs + outputs) + self.use_dora * outputs

    def attach(self, settings: LoraConfig, backbone: Backbone, seed: int) -> None:
        """Put LoRA into the image tower in place; raises UsageError as `count` does."""
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
        """The dropouts; DoRA drops where its layer is in training mode."""
        layers = [module for module in visual.modules() if isinstance(module, LoraLayer)]
        return layers if self.use_dora else [layer.lora_dropout for layer in layers]

    def save(self, visual: nn.Module, prompts: object, folder: Path) -> None:
        """Write it in PEFT format: two files, no more.

        `peft.PeftModel.from_pretrained(<tower, attention split>, folder)` reads them. With the
        names `transformer.resblocks` -> `vision_model.encoder.layers`, `attn` -> `self_attn`
        (`mlp.c_fc`, `mlp.c_proj` -> `mlp.fc1`, `mlp.fc2`) the keys are those of transformers' CLIP.
        """
        config: peft.LoraConfig = visual.__dict__["peft_config"]["default"]
        with TemporaryDirectory(prefix=".adapter.", dir=folder) as staging:
            config.save_pretrained(staging)  # in place; only whole files get their names
            content = (Path(staging) / ADAPTER_FILES[0]).read_bytes()
        files.write_bytes(folder / ADAPTER_FILES[0], content)
        content = save(_peft_state(visual), metadata={"format": "pt"})
        files.write_bytes(folder / ADAPTER_FILES[1], content)

    def load(self, backbone: Backbone, folder: Path) -> None:
        """Load a saved adapter into the image tower in place, frozen.

        Raises UsageError where the folder has no adapter, or one for another backbone.
        """
        for name in ADAPTER_FILES:  # without the second, peft would look for a pickle
            if not (folder / name).is_file():
                raise UsageError(f"no adapter in {folder}: {name} is missing")
        _blocks(backbone, self.config.name)
        unfit = f"the adapter in {folder} does not fit {backbone.name} {backbone.tag}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of is refused below
                peft.PeftModel.from_pretrained(backbone.visual, str(folder))
        except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise UsageError(f"{unfit}: {one_line(error)}") from error
        # peft only warns where the file lacks matrices of this tower, or has some of a deeper one.
        saved_keys = load_file(folder / ADAPTER_FILES[1]).keys()
        if different := sorted(saved_keys ^ _peft_state(backbone.visual).keys()):
            raise UsageError(f"{unfit}: {different[0]} is in one of them only")
        fuse_lora(backbone.visual)

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        """Merge the updates into the frozen weights, where they cost nothing.

        Taken out again, the frozen weights are the tensors that they were: adding an update and
        taking it away, as peft does, would leave rounding in them.
        """
        layers = {
            name: layer for name, layer in visual.named_modules() if isinstance(layer, LoraLayer)
        }
        merged = [_merged_weight(layer) for layer in layers.values()]  # all or none is put in
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
        """The update B A goes in a straight line by its B, which begins at zero."""
        return ".lora_A." not in name


LORA = PeftAdapter(LoraConfig)


def _targets(settings: LoraConfig, backbone: Backbone) -> tuple[str, list[nn.Linear]]:
    """Find the layers that are adapted: a pattern of their names, and themselves.

    Not the ends of names alone: other parts of a tower have projections too. Raises UsageError for
    towers without split attention, and layers out of range.
    """
    n_blocks = len(_blocks(backbone, settings.name))
    chosen = range(n_blocks) if settings.layers is None else sorted(set(settings.layers))
    for layer in chosen:
        if not 0 <= layer < n_blocks:
            raise UsageError(
                f"model.layers={settings.layers}: {backbone.name} has the layers"
                f" 0 to {n_blocks - 1}, not {layer}"
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
    """The transformer blocks of the image tower, each with split attention."""
    blocks = getattr(getattr(backbone.visual, "transformer", None), "resblocks", ())
    if len(blocks) == 0 or not all(isinstance(block.attn, Attention) for block in blocks):
        raise UsageError(
            f"model={model} needs a vision transformer of open_clip's own; the image tower of"
            f" {backbone.name} is a {type(backbone.visual).__name__}: use model=linear_probe or"
            " model=full"
        )
    return blocks


def _peft_state(visual: nn.Module) -> dict[str, Tensor]:
    """The trained tensors under the names that a `PeftModel` gives them, on the CPU."""
    state = peft.get_peft_model_state_dict(visual, save_embedding_layers=False)
    return {PEFT_PREFIX + key: value.detach().cpu() for key, value in state.items()}


def _merged_weight(layer: LoraLayer) -> Tensor:
    """The weights (D_out, D_in) that compute the same without the layer around them."""
    (name,) = layer.active_adapters
    weight = layer.get_base_layer().weight.data
    if name in layer.lora_variant:  # DoRA
        return layer.lora_variant[name].merge_safe(layer, name, weight).detach()  # type: ignore[no-any-return]
    return weight + layer.get_delta_weight(name).detach()  # type: ignore[no-any-return]
