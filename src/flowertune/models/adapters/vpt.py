"""Create, save and load visual prompts (Jia et al., 2022, arXiv:2203.12119)."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from torch import nn

from flowertune import files
from flowertune.config.model import VptConfig
from flowertune.errors import UsageError, one_line
from flowertune.models.backbone import Backbone
from flowertune.models.vision_tower import takes_prompts
from flowertune.models.visual_prompts import POSITIONS, VisualPrompts
from flowertune.seeding import generator

NORMAL_STD = 0.02
SETTINGS_FILE = "prompts.json"
WEIGHTS_FILE = "prompts.safetensors"


def prompted_blocks(backbone: Backbone, depth: int | str) -> int:
    """Number of blocks that get prompts, from the first: 1 for "shallow", all for "deep".

    Raises UsageError for towers that take no prompts, and where there are fewer than `depth`
    blocks.
    """
    n_blocks = len(_tower(backbone).transformer.resblocks)
    choices: dict[int | str, int] = {count: count for count in range(1, n_blocks + 1)}
    choices |= {"shallow": 1, "deep": n_blocks}
    if depth not in choices:
        raise UsageError(
            f"model.depth={depth}: {backbone.name} has {n_blocks} blocks; give 1 to {n_blocks},"
            " shallow or deep"
        )
    return choices[depth]


@dataclass(frozen=True)
class Vpt:
    """Trained prompts in the image tower's forward pass; the tower stays as it is."""

    config: type[VptConfig] = VptConfig
    is_peft: bool = False
    outside_tower: str = "visual prompts"

    def count(self, settings: VptConfig, backbone: Backbone) -> int:
        """Count the numbers; raises UsageError as `prompted_blocks` does."""
        n_blocks = prompted_blocks(backbone, settings.depth)
        width: int = _tower(backbone).transformer.width
        return (1 if settings.shared else n_blocks) * settings.num_prompts * width

    def attach(self, settings: VptConfig, backbone: Backbone, seed: int) -> VisualPrompts:
        """Create prompts for the tower, drawn from (seed, "vpt").

        `init` vpt_uniform: +-sqrt(6 / (3 h w + D)) for patches of h x w, as KMnP/vpt; normal: std
        0.02, as MaPLe (Khattak et al., 2023, arXiv:2210.03117).
        """
        n_blocks = prompted_blocks(backbone, settings.depth)
        visual = _tower(backbone)
        width: int = visual.transformer.width
        blocks = () if settings.shared else (n_blocks,)
        embeddings = torch.empty(*blocks, settings.num_prompts, width)
        rng = generator(seed, "vpt")
        if settings.init == "vpt_uniform":
            bound = math.sqrt(6 / (3 * math.prod(visual.patch_size) + width))
            embeddings.uniform_(-bound, bound, generator=rng)
        else:
            embeddings.normal_(0, NORMAL_STD, generator=rng)
        return VisualPrompts(
            embeddings,
            depth=n_blocks,
            position=settings.position,  # type: ignore[arg-type]  # its choices are checked
            before_ln_pre=settings.before_ln_pre,
            dropout=settings.dropout,
        )

    def training_modules(self, visual: nn.Module) -> tuple[nn.Module, ...]:
        """Nothing in the tower."""
        return ()

    def save(self, visual: nn.Module, prompts: VisualPrompts | None, folder: Path) -> None:
        """Write the prompts and their settings: two files, no more."""
        assert prompts is not None
        assert isinstance(visual, VisionTransformer)
        state = {"embeddings": prompts.embeddings.detach().cpu()}
        files.write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(state))
        files.write_json(
            folder / SETTINGS_FILE,
            {
                "blocks": len(visual.transformer.resblocks),
                "depth": prompts.depth,
                "position": prompts.position,
                "before_ln_pre": prompts.before_ln_pre,
            },
        )

    def load(self, backbone: Backbone, folder: Path) -> VisualPrompts:
        """Load saved prompts, frozen, on the CPU.

        Raises UsageError where the folder has none, or they do not fit the backbone.
        """
        visual = _tower(backbone)
        for name in (SETTINGS_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise UsageError(f"no prompts in {folder}: {name} is missing")
        try:
            settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            saved_blocks = settings.pop("blocks")
            embeddings = safetensors.torch.load_file(folder / WEIGHTS_FILE)["embeddings"]
            prompts = VisualPrompts(embeddings, **settings, dropout=0.0)
        except (ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
            raise UsageError(f"cannot read the prompts in {folder}: {one_line(error)}") from error
        n_blocks, width = len(visual.transformer.resblocks), visual.transformer.width
        shape = tuple(embeddings.shape)
        right_shape = len(shape) > 1 and shape[:-2] in ((), (prompts.depth,)) and shape[-1] == width
        for ok, problem in (
            (saved_blocks == n_blocks, f"made for {saved_blocks} blocks, and it has {n_blocks}"),
            (
                prompts.depth in range(1, n_blocks + 1),
                f"depth {prompts.depth}, of {n_blocks} blocks",
            ),
            (prompts.position in POSITIONS, f"position {prompts.position}"),
            (right_shape, f"shape {shape}, and its tokens have {width} dimensions"),
        ):
            if not ok:
                raise UsageError(
                    f"the prompts in {folder} do not fit {backbone.name} {backbone.tag}: {problem}"
                )
        return prompts.requires_grad_(False)

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        """Do nothing: no weights of the tower can take prompts in."""
        return lambda: None

    def is_scaled(self, name: str) -> bool:
        """The prompts go in a straight line from the initial to the trained ones."""
        return True


VPT = Vpt()


def _tower(backbone: Backbone) -> VisionTransformer:
    if not takes_prompts(backbone.visual):
        raise UsageError(
            f"model=vpt needs a vision transformer of open_clip's own with its default blocks; the"
            f" image tower of {backbone.name} is another ({type(backbone.visual).__name__}): use"
            " model=linear_probe or model=full"
        )
    return backbone.visual
