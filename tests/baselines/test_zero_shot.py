"""Zero-shot against open_clip's own classifier, with a small CLIP of random weights."""

import open_clip
import pytest
import torch
from torch import Tensor

from flowertune.baselines.prompts import render
from flowertune.baselines.zero_shot import class_vectors, zero_shot_logits

NAMES = ["sword lily", "rose", "fire lily", "english marigold", "tree mallow"]
TEMPLATES = ["a photo of a {name}, a type of flower.", "{name}", "a blurry {name}."]


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=24,
            vision_cfg={"image_size": 32, "layers": 1, "width": 32, "head_width": 16,
                        "patch_size": 16},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2,
                      "layers": 2},
        )  # fmt: skip
    return model.eval()


def test_class_vectors_equal_open_clips(clip: open_clip.CLIP) -> None:
    tokenizer = open_clip.SimpleTokenizer()

    def encode_text(texts: list[str]) -> Tensor:
        return clip.encode_text(tokenizer(texts))

    vectors = class_vectors(encode_text, render(TEMPLATES, NAMES, None))
    theirs = open_clip.build_zero_shot_classifier(
        clip, tokenizer, NAMES, [t.replace("{name}", "{}") for t in TEMPLATES]
    )
    torch.testing.assert_close(vectors, theirs.T, atol=1e-6, rtol=1e-5)

    with torch.no_grad():
        features = clip.encode_image(torch.randn(6, 3, 32, 32))
        scale = clip.logit_scale.exp().item()
        expected = scale * (features / features.norm(dim=1, keepdim=True)) @ theirs
    logits = zero_shot_logits(features, vectors, scale)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_head_can_start_from_class_vectors_and_train() -> None:
    vectors = class_vectors(lambda texts: torch.eye(4)[: len(texts)], [["a"], ["b"]])
    weight = torch.nn.Parameter(vectors)
    zero_shot_logits(torch.randn(3, 4), weight, 10.0).sum().backward()
    assert weight.grad is not None


def test_classes_may_have_different_numbers_of_prompts() -> None:
    embeddings = {"x": [3.0, 0.0], "y": [0.0, 0.1], "z": [0.0, 7.0]}
    vectors = class_vectors(
        lambda texts: torch.tensor([embeddings[text] for text in texts]), [["x", "y"], ["z"]]
    )
    half = 0.5**0.5  # the lengths of prompt embeddings do not matter
    torch.testing.assert_close(vectors, torch.tensor([[half, half], [0.0, 1.0]]))
