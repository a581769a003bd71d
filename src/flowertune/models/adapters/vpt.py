"""Create, save and load visual prompts (Jia et al., 2022, arXiv:2203.12119)."""

import json
import math
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError

from flowertune import files
from flowertune.errors import UsageError, one_line
from flowertune.models.backbone import Backbone
from flowertune.models.vision_tower import takes_prompts
from flowertune.models.visual_prompts import POSITIONS, Position, VisualPrompts
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
    choices: dict[int | str, int] = {"shallow": 1, "deep": n_blocks}
    choices.update((count, count) for count in range(1, n_blocks + 1))
    if depth not in choices:
        raise UsageError(
            f"model.depth={depth}: {backbone.name} has {n_blocks} blocks; give 1 to {n_blocks},"
            " shallow or deep"
        )
    return choices[depth]


def make_prompts(
    backbone: Backbone,
    *,
    num_prompts: int,
    depth: int | str,
    shared: bool,
    dropout: float,
    init: Literal["vpt_uniform", "normal"],
    position: Position,
    before_ln_pre: bool,
    seed: int,
) -> VisualPrompts:
    """Create prompts for a backbone's image tower, which stays as it is.

    Drawn from (seed, "vpt"). `init` vpt_uniform: +-sqrt(6 / (3 h w + D)) for patches of h x w, as
    KMnP/vpt; normal: std 0.02, as MaPLe (Khattak et al., 2023, arXiv:2210.03117). Raises
    UsageError as `prompted_blocks` does.
    """
    n_blocks = prompted_blocks(backbone, depth)
    visual = _tower(backbone)
    width: int = visual.transformer.width
    embeddings = torch.empty(*(() if shared else (n_blocks,)), num_prompts, width)
    rng = generator(seed, "vpt")
    if init == "vpt_uniform":
        bound = math.sqrt(6 / (3 * math.prod(visual.patch_size) + width))
        embeddings.uniform_(-bound, bound, generator=rng)
    else:
        embeddings.normal_(0, NORMAL_STD, generator=rng)
    return VisualPrompts(
        embeddings, depth=n_blocks, position=position, before_ln_pre=before_ln_pre, dropout=dropout
    )


def save_prompts(visual: VisionTransformer, prompts: VisualPrompts, folder: Path) -> None:
    """Write an image tower's prompts and their settings: two files, no more."""
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


def load_prompts(backbone: Backbone, folder: Path) -> VisualPrompts:
    """Load prompts from `save_prompts`, frozen, on the CPU.

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
        (prompts.depth in range(1, n_blocks + 1), f"depth {prompts.depth}, of {n_blocks} blocks"),
        (prompts.position in POSITIONS, f"position {prompts.position}"),
        (right_shape, f"shape {shape}, and its tokens have {width} dimensions"),
    ):
        if not ok:
            raise UsageError(
                f"the prompts in {folder} do not fit {backbone.name} {backbone.tag}: {problem}"
            )
    return prompts.requires_grad_(False)


def _tower(backbone: Backbone) -> VisionTransformer:
    if not takes_prompts(backbone.visual):
        raise UsageError(
            f"model=vpt needs a vision transformer of open_clip's own with its default blocks; the"
            f" image tower of {backbone.name} is another ({type(backbone.visual).__name__}): use"
            " model=linear_probe or model=full"
        )
    return backbone.visual
