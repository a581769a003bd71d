"""Train the built-in tiny CLIP from scratch on drawn flowers and captions of their attributes.

    python scripts/pretrain_tiny.py --seed 0

writes open_clip_config.json, open_clip_model.safetensors (float16) and training.json to
src/flowertune/assets/tiny. The combinations of main attributes of the downstream species
(flowertune.data.sources.synthetic.species.HELD_OUT) are never drawn here, and the pictures are
taken in other conditions (pretraining_data.GARDEN here, EVENING there).

What makes so little compute go far:
- The pictures are drawn once, into memory, and used several times: shifted, mirrored, and each
  time under a fresh caption that states another part of the attributes.
- Targets are multi-positive: a caption fits every picture of the batch that has all the
  attributes it states, not only the picture it was written for (as in supervised contrastive
  learning, Khosla et al. 2020). With so few words most batches hold such pairs.
- Linear classifiers read each attribute off the joint embedding. Pictures and captions share
  them, which pulls the two towers to the same place from the first step on. They are dropped
  at the end.
- For the first part of the steps the image tower sees half of its patches (FLIP, Li et al.
  2023), which is nearly twice as fast; the rest of the training sees them all.
"""

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from pretraining_data import caption, draw_pool
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowertune.data.sources.synthetic.dataset import picture
from flowertune.data.sources.synthetic.scene import DRAWING_VERSION, SIZE
from flowertune.data.sources.synthetic.species import SPECIES, VALUES, description

EMBED_DIM = 128
CONTEXT_LENGTH = 40  # the longest description in the longest template has 35 tokens
MEAN, STD = (0.45, 0.45, 0.4), (0.25, 0.25, 0.25)
CONFIG: dict[str, dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {
            "image_size": SIZE,
            "layers": 4,
            "width": 128,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,  # that of open_clip's own tokenizer
            "width": 64,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": [SIZE, SIZE],
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
OUTPUT = Path(__file__).parents[1] / "src/flowertune/assets/tiny"
SHIFT = 4  # pixels, each way


class AttributeHeads(nn.Module):
    """Reads each attribute off an embedding (B, E); one classifier for both towers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in VALUES.values())

    def loss(self, embedding: Tensor, codes: Tensor, stated: Tensor) -> Tensor:
        """Mean cross-entropy over the attributes that are stated; codes and stated are (B, A)."""
        total = embedding.new_zeros(())
        for index, head in enumerate(self.heads):
            each = F.cross_entropy(head(10 * embedding), codes[:, index], reduction="none")
            total = total + (each * stated[:, index]).sum()
        return total / stated.sum()


def contrastive_loss(image: Tensor, text: Tensor, fits: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy; positive is every pair where fits[i, j]: caption j is true of i."""
    logits = scale * image @ text.T
    target = fits.float()
    images = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    texts = F.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return (images + texts) / 2


def normalize(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to what the image tower takes."""
    mean = torch.tensor(MEAN).view(3, 1, 1)
    std = torch.tensor(STD).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def shifted_and_mirrored(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """One shift for the batch, and one mirroring for each picture."""
    x, y = rng.integers(0, 2 * SHIFT + 1, 2).tolist()
    padded = F.pad(pixels.float(), (SHIFT,) * 4, mode="replicate")
    crop = padded[:, :, y : y + SIZE, x : x + SIZE]
    mirror = torch.from_numpy(rng.random(len(crop)) < 0.5).view(-1, 1, 1, 1)
    return torch.where(mirror, crop.flip(3), crop)


def train(arguments: argparse.Namespace, started: float) -> CLIP:
    pixels, shown = draw_pool(arguments.seed, arguments.pictures, arguments.processes)
    codes = torch.tensor(
        [[values.index(getattr(each, name)) for name, values in VALUES.items()] for each in shown]
    )
    print(f"{len(shown)} pictures drawn in {time.monotonic() - started:.0f} s", flush=True)

    torch.manual_seed(arguments.seed)
    model = CLIP(**CONFIG["model_cfg"])
    heads = AttributeHeads(EMBED_DIM)
    tokenize = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    parameters = [*model.parameters(), *heads.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, betas=(0.9, 0.98))
    half_sight = model.visual.patch_dropout = open_clip.transformer.PatchDropout(0.5)
    whole_sight = nn.Identity()
    rng = np.random.default_rng([arguments.seed, 1])
    order = np.empty(0, dtype=np.int64)
    fields = list(VALUES)
    running = 0.0
    for step in range(arguments.steps):
        progress = step / arguments.steps
        warm_up = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = (
                arguments.lr * warm_up * (0.01 + 0.99 * math.cos(progress * math.pi / 2) ** 2)
            )
        model.visual.patch_dropout = half_sight if progress < arguments.half_sight else whole_sight
        if len(order) < arguments.batch_size:
            order = np.concatenate([order, rng.permutation(len(shown))])
        batch, order = order[: arguments.batch_size], order[arguments.batch_size :]
        captions = [caption(shown[index], rng) for index in batch]
        stated = torch.tensor([[field in c.stated for field in fields] for c in captions])
        batch_codes = codes[torch.from_numpy(batch)]
        same = batch_codes[:, None] == batch_codes[None]
        fits = (same | ~stated[None]).all(2)

        images = normalize(shifted_and_mirrored(pixels[torch.from_numpy(batch)], rng))
        # PyTorch's fused attention is several times slower than the plain one here: bfloat16, CPU.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            image = model.encode_image(images)
            text = model.encode_text(tokenize([c.text for c in captions]))
        image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
        scale = model.logit_scale.exp()
        everything = torch.ones_like(stated)
        loss = contrastive_loss(image, text, fits, scale)
        loss = loss + heads.loss(image, batch_codes, everything.float())
        loss = loss + 0.5 * heads.loss(text, batch_codes, stated.float())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        running += loss.item()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1} loss {running / 50:.3f} {seconds:.0f} s", flush=True)
            running = 0.0
        if arguments.look and (step + 1) % arguments.look == 0:
            model.visual.patch_dropout = whole_sight
            print(measure(model.eval(), 10, 16), flush=True)
            model.train()
    model.visual.patch_dropout = whole_sight
    return model.eval()


@torch.inference_mode()
def embed(model: CLIP, split: str, photos_per_species: int) -> Tensor:
    """(species, photos, E) unit embeddings of the pictures that `data=synthetic` draws."""
    pictures = [
        picture(0, split, species, number)
        for species in SPECIES
        for number in range(photos_per_species)
    ]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    parts = [model.encode_image(normalize(part), normalize=True) for part in pixels.split(200)]
    return torch.cat(parts).view(len(SPECIES), photos_per_species, -1)


def measure(model: CLIP, test_per_species: int, train_per_species: int) -> dict[str, float]:
    """Top-1 on downstream species: zero-shot with the descriptions, and a linear probe."""
    tokenize = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    with torch.inference_mode():
        lines = ["a photo of " + description(attributes) for attributes in SPECIES.values()]
        text = model.encode_text(tokenize(lines), normalize=True)
    test = embed(model, "test", test_per_species)
    labels = torch.arange(len(SPECIES))[:, None]
    zero_shot = ((test @ text.T).argmax(2) == labels).float().mean().item()
    seen = embed(model, "train", train_per_species).clone()
    mean, std = seen.mean((0, 1)), seen.std((0, 1))
    features = ((seen - mean) / std).flatten(0, 1)
    probe = nn.Linear(features.shape[1], len(SPECIES))
    nn.init.zeros_(probe.weight)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    targets = labels.expand(-1, train_per_species).flatten()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(probe(features), targets) + 1e-3 * probe.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        right = probe((test.clone() - mean) / std).argmax(2) == labels
    return {"zero_shot_top1": zero_shot, "linear_probe_top1": right.float().mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=16000, help="how many are drawn")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--half-sight", type=float, default=0.75, help="share of steps with half the patches"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that draw")
    parser.add_argument("--threads", type=int, default=1, help="that train")
    parser.add_argument("--look", type=int, default=0, help="measure every so many steps; 0: never")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    model = train(arguments, started)
    seconds = time.monotonic() - started

    arguments.output.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, arguments.output / "open_clip_model.safetensors")
    config = json.dumps(CONFIG, indent=2) + "\n"
    (arguments.output / "open_clip_config.json").write_text(config, encoding="utf-8")
    reread = open_clip.create_model(f"local-dir:{arguments.output}").eval()
    record = {
        "command": f"python scripts/pretrain_tiny.py --seed {arguments.seed}"
        f" --steps {arguments.steps} --batch-size {arguments.batch_size}"
        f" --pictures {arguments.pictures} --lr {arguments.lr} --half-sight {arguments.half_sight}"
        f" --threads {arguments.threads}",
        "seed": arguments.seed,
        "steps": arguments.steps,
        "seconds": round(seconds),
        "threads": arguments.threads,
        "drawing_version": DRAWING_VERSION,
        "measured": measure(reread, 50, 16) | {"test_pictures": 50 * len(SPECIES)},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
            "numpy": np.__version__,
        },
    }
    text = json.dumps(record, indent=2) + "\n"
    (arguments.output / "training.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
