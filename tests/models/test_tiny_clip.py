"""The built-in tiny CLIP: open_clip alone opens it, it is small, and it knows some flowers."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from flowertune.data.sources.synthetic import dataset
from flowertune.data.sources.synthetic.scene import DRAWING_VERSION
from flowertune.data.sources.synthetic.species import SPECIES, description

TINY = Path(dataset.__file__).parents[3] / "assets" / "tiny"
PER_SPECIES = 20


@pytest.fixture(scope="module")
def similarities() -> torch.Tensor:
    """(species, PER_SPECIES, species): test pictures against descriptions, by open_clip alone."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{TINY}")
    model.eval()
    pictures = torch.stack(
        [
            preprocess(Image.fromarray(dataset.picture(0, "test", name, number)))
            for name in SPECIES
            for number in range(PER_SPECIES)
        ]
    )
    lines = [f"a photo of {description(attributes)}" for attributes in SPECIES.values()]
    with torch.inference_mode():
        text = model.encode_text(tokenize(lines), normalize=True)
        image = torch.cat(
            [model.encode_image(part, normalize=True) for part in pictures.split(100)]
        )
    return (image @ text.T).view(len(SPECIES), PER_SPECIES, len(SPECIES))


def test_it_is_small_and_float16() -> None:
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 16 * 2**20
    with safe_open(TINY / "open_clip_model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {"F16"}


def test_zero_shot_knows_something_and_not_everything(similarities: torch.Tensor) -> None:
    labels = torch.arange(len(SPECIES))[:, None]
    top1 = (similarities.argmax(2) == labels).float().mean().item()
    assert 0.25 <= top1 <= 0.75


def test_zero_shot_is_as_recorded(similarities: torch.Tensor) -> None:
    labels = torch.arange(len(SPECIES))[:, None]
    top1 = (similarities.argmax(2) == labels).float().mean().item()
    recorded = json.loads((TINY / "training.json").read_text(encoding="utf-8"))
    # Other pictures of the same species: four standard errors of this many.
    allowed = 4 * np.sqrt(0.25 / similarities[..., 0].numel())
    assert abs(top1 - recorded["measured"]["zero_shot_top1"]) < allowed
    assert recorded["drawing_version"] == DRAWING_VERSION


def test_the_tokenizer_keeps_whole_descriptions() -> None:
    tokenize = open_clip.get_tokenizer(f"local-dir:{TINY}")
    lines = [f"a photo of {description(a)}, a type of flower." for a in SPECIES.values()]
    tokens = tokenize(lines)
    assert tokens.shape == (len(SPECIES), 40)
    assert (tokens[:, -1] == 0).all()  # nothing was cut off
