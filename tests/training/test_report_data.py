"""Images and embeddings that a training saves for its report."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flowertune.runs.directory import Run
from flowertune.training import report_data

Ending = Callable[..., report_data.ReportInputs]


def left(folder: Path, ending: report_data.ReportInputs) -> dict[str, Any]:
    report_data.write_report_data(Run(folder), ending)
    photos: dict[str, Any] = json.loads((folder / "report" / "photos.json").read_text())
    return photos


def color(picture: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image, dtype=float).mean((0, 1))


def is_of(picture: str, ending: report_data.ReportInputs, split: str, row: int) -> bool:
    pixels = ending.pixels[split].array[row].mean((1, 2))
    return bool(np.abs(color(picture) - pixels).max() < 4)  # JPEG is not exact


def test_errors_and_correct_predictions_are_ranked_and_have_their_nearest_training_images(
    tmp_path: Path, ending: Ending
) -> None:
    made = ending()
    photos = left(tmp_path, made)
    labels = made.cached.dataset.splits["test"].labels
    probabilities = made.outputs.logits.softmax(1)
    sure = {row: max(each) for row, each in enumerate(probabilities.tolist())}
    hit = {row: int(each.argmax()) == labels[row] for row, each in enumerate(probabilities)}
    assert {True, False} == set(hit.values())
    by_sureness = sorted(sure, key=lambda row: -sure[row])
    assert [each["row"] for each in photos["mistakes"]] == [r for r in by_sureness if not hit[r]][
        : report_data.SHOWN
    ]
    assert [each["row"] for each in photos["unsure"]] == [
        r for r in reversed(by_sureness) if hit[r]
    ][: report_data.SHOWN]
    cosine = torch.nn.functional.cosine_similarity
    for each in photos["mistakes"] + photos["unsure"]:
        assert is_of(each["picture"], made, "test", each["row"])
        found = [float(cosine(made.outputs.embedding[each["row"]], other, dim=0))
                 for other in made.train_embedding]  # fmt: skip
        nearest = int(np.argmax(found))
        assert is_of(each["nearest"]["picture"], made, "train", nearest)
        assert each["nearest"]["similarity"] == pytest.approx(max(found), abs=1e-5)
        name = made.cached.image_names("train")[nearest]
        assert each["nearest"]["path"] == name


def test_augmented_images_have_the_original_colors_and_different_classes(
    tmp_path: Path, ending: Ending
) -> None:
    classes = tuple(f"class {number}" for number in range(8))
    photos = left(tmp_path, ending(classes))["augmented"]
    assert len({each["label"] for each in photos}) == len(photos) == report_data.AUGMENTED
    for each in photos:
        assert len(each["variants"]) == report_data.VARIANTS
        for variant in each["variants"]:  # crops and flips leave a photo of one color so
            assert np.abs(color(variant) - color(each["picture"])).max() < 4


def test_the_map_has_embeddings_of_the_same_random_images_before_and_after(
    tmp_path: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_data, "MAPPED", 11)
    made = ending()
    kept = []
    for name, each in (("a", made), ("b", made), ("c", ending(seed=1))):
        (tmp_path / name).mkdir()
        left(tmp_path / name, each)
        kept.append(load_file(tmp_path / name / "report" / "embeddings.safetensors"))
    rows = kept[0]["rows"]
    assert len(set(rows.tolist())) == 11
    assert torch.equal(rows, kept[1]["rows"])
    assert not torch.equal(rows, kept[2]["rows"])
    assert made.frozen_embedding is not None
    for name, whole in (("after", made.outputs.embedding), ("before", made.frozen_embedding)):
        expected = torch.nn.functional.normalize(whole[rows], dim=1)
        assert torch.allclose(kept[0][name].float(), expected, atol=1e-3)
