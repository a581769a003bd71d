"""Check that an exported model gives the run's logits on the same images."""

from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flowertune import seeding
from flowertune.data.image import UnreadableImageError
from flowertune.errors import ExportError
from flowertune.inference import run_images
from flowertune.inference.predictor import Predictor
from flowertune.metrics import EVALUATED_SPLITS

MAX_IMAGES = 200
N_SYNTHETIC = 64
PATCHES = 8  # a side: a drawn picture is so many colors, blended
BATCH_SIZE = 32
MAX_DIFFERENCE = 1e-4  # difference of probabilities


def draw_sample(model: Predictor) -> tuple[Tensor, str]:
    """Draw normalized images (N, 3, H, W) float32, and describe them: "200 val photos".

    They are unchanged ones of the run, from val if possible; if there are none, drawn ones.
    """
    split = next(name for name in (*EVALUATED_SPLITS, "train") if name in model.run.images)
    images = model.run.images[split]
    n = min(MAX_IMAGES, len(images))
    chosen = [images[index * len(images) // n] for index in range(n)]
    root = run_images.run_image_root(model.config.data)
    with closing(run_images.read_unchanged(chosen, root, model.preprocessing)) as decoded:
        pixels = [item for item in decoded if not isinstance(item, UnreadableImageError)]
    description = f"{len(pixels)} {split} photos"
    if not pixels:
        generator = seeding.generator(0, "parity")  # the same pictures each time
        colors = torch.rand(N_SYNTHETIC, 3, PATCHES, PATCHES, generator=generator)
        blended = F.interpolate(colors, model.preprocessing.size, mode="bilinear") * 255
        pixels = list(blended.byte().numpy())
        description = f"{N_SYNTHETIC} drawn pictures, as the run's photos are not where they were"
    return model.images(np.stack(pixels)), description


def compare(
    model: Predictor, exported: Callable[[Tensor], Tensor], images: Tensor, description: str
) -> str:
    """Compare the exported model with the run's on `draw_sample`'s images, and say the result.

    One image alone, and then batches: a graph may have been made for one size of them.

    Raises ExportError where predictions differ, or probabilities do by more than 1e-4.
    """
    batches = [batch for batch in (images[:1], *images[1:].split(BATCH_SIZE)) if len(batch)]
    with torch.inference_mode():
        exported_logits = torch.cat([exported(batch) for batch in batches])
        run_logits = torch.cat([model.classifier(batch)[1] for batch in batches])
    logits = (run_logits - exported_logits).abs().max().item()
    probabilities = (F.softmax(run_logits, 1) - F.softmax(exported_logits, 1)).abs().max().item()
    difference = f"largest difference of logits {logits:.1e}, of probabilities {probabilities:.1e}"
    n_different = int((run_logits.argmax(1) != exported_logits.argmax(1)).sum())
    if n_different or not probabilities <= MAX_DIFFERENCE:  # "not" for what is no number
        raise ExportError(
            f"the exported model is not the run's: {n_different} predictions differ on "
            f"{description} ({difference}); nothing was written"
        )
    return f"{difference}, predictions equal on {description}"
