"""`flowertune export`: other libraries give the same predictions, and bad input is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from flowertune import cli
from flowertune.commands import export
from flowertune.commands.arguments import make_parser
from flowertune.commands.registry import COMMANDS
from flowertune.errors import ExportError
from flowertune.models.heads import LinearForm, LinearHead

LORA = ("method=lora", "model.rank=4", "model.targets=[q,v,mlp]", "model.dropout=0.2")
KINDS = {
    "open_clip lora": (*LORA, "backbone.tag=laion_and_mine"),
    "open_clip full": ("method=full", "head.from_probe=false"),
    "open_clip cosine": (*LORA, "head=cosine"),
    "open_clip dora": ("method=dora", "model.targets=[v,mlp]"),
    "open_clip layernorm": ("method=layernorm",),
    "open_clip bitfit": ("method=bitfit", "head=cosine"),
    "torch lora": LORA,
    "torch dora": ("method=dora", "model.rank_stabilized=true"),
    "torch bitfit": ("method=bitfit",),
    "torch vpt": ("method=vpt_deep", "model.num_prompts=4", "model.depth=2", "head=cosine"),
}

Leave = Callable[..., Any]


def execute(words: list[str]) -> int:
    return export.execute(make_parser(COMMANDS["export"].arguments).parse_args(words))


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, leave: Leave, val_photos: Path
) -> dict[str, tuple[Path, Any]]:
    """By kind: the exported folder and the run."""
    root = tmp_path_factory.mktemp("exported")
    made = {}
    for kind, words in KINDS.items():
        left, output = leave(root / "runs", *words), root / kind.replace(" ", "-")
        form = kind.split()[0]
        assert cli.main(["export", str(left.run), "--format", form, "--output", str(output)]) == 0
        made[kind] = output, left
    return made


@torch.no_grad()
def test_other_libraries_alone_give_the_logits_of_the_run(
    exported: dict[str, tuple[Path, Any]],
    opened_alone: Callable[..., dict[str, list[list[float]]]],
    small_dir: Path,
    val_photos: Path,
) -> None:
    photos = sorted(val_photos.rglob("*.png"))
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{small_dir}")
    images = torch.stack([preprocess(ImageOps.exif_transpose(Image.open(path))) for path in photos])
    found = opened_alone([folder for folder, _ in exported.values()], photos)
    for kind, (folder, left) in exported.items():
        _, ours = left.classifier(images)
        theirs = torch.tensor(found[str(folder)])
        assert torch.equal(ours.argmax(1), theirs.argmax(1)), kind
        torch.testing.assert_close(theirs.softmax(1), ours.softmax(1), atol=1e-5, rtol=0, msg=kind)


def test_the_card_says_what_it_is_and_how_good(exported: dict[str, tuple[Path, Any]]) -> None:
    folder, left = exported["open_clip lora"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    val = json.loads((left.run / "results.json").read_text())["splits"]["val"]
    low, high = val["top1_interval"]
    row = f"| val, lora | 10 | {100 * val['top1']:.2f} | {100 * low:.1f} to {100 * high:.1f} | "
    assert row in card
    assert "made for a \\| test" in card
    assert json.loads((left.run / "environment.json").read_text())["weights_sha256"] in card
    assert re.search(
        r"logits differ by at most \S+e-0\d, probabilities by \S+e-\d\d, and predictions are equal "
        "on 5 val images",
        card,
    )
    listed = {line.split("`")[1] for line in card.splitlines() if line.startswith("- `")}
    assert listed | {"README.md"} == {path.name for path in folder.iterdir()}
    assert "License: unknown" in card  # a local backbone, whatever its tag
    assert json.loads((folder / "labels.json").read_text(encoding="utf-8"))[1] == "Gänseblümchen"


def test_nothing_in_an_export_names_a_place_of_this_machine(
    exported: dict[str, tuple[Path, Any]], small_dir: Path
) -> None:
    for folder, _ in exported.values():
        for file in folder.iterdir():
            content = file.read_bytes()
            for place in (Path(cli.__file__).parent, Path(torch.__file__).parent, small_dir):
                assert str(place).encode() not in content, (file, place)


def test_an_export_with_other_predictions_is_not_kept(
    exported: dict[str, tuple[Path, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = LinearHead.as_linear

    def wrong(head: LinearHead) -> LinearForm:
        found = right(head)
        return LinearForm(found.weight, found.bias + torch.tensor([1e-3, 0, 0]), found.normalizes)

    monkeypatch.setattr(LinearHead, "as_linear", wrong)
    _, left = exported["open_clip lora"]
    words = [str(left.run), "--format", "open_clip", "--output", str(tmp_path / "new")]
    with pytest.raises(ExportError, match="predictions differ on 5 val images"):
        execute(words)
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["export", *words]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_leaves_nothing_and_gives_one_line(
    exported: dict[str, tuple[Path, Any]],
    tmp_path: Path,
    fill_disk: Callable[[], None],
    capsys: Any,
) -> None:
    _, left = exported["open_clip full"]
    fill_disk()
    words = ["export", str(left.run), "--format", "open_clip", "--output", str(tmp_path / "new")]
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert "No space left" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_images_of_the_run_it_compares_on_generated_ones(
    exported: dict[str, tuple[Path, Any]], val_photos: Path, tmp_path: Path, capsys: Any
) -> None:
    _, left = exported["open_clip full"]
    away = val_photos.with_name("away")
    val_photos.rename(away)
    try:
        words = ["export", str(left.run), "--format", "open_clip", "--output", str(tmp_path / "x")]
        assert cli.main(words) == 0
    finally:
        away.rename(val_photos)
    assert "64 generated images (the images of the run are missing)" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_a_model_that_a_format_does_not_support_is_refused_and_the_formats_that_do_are_named(
    exported: dict[str, tuple[Path, Any]], refusal: Any, tmp_path: Path, leave: Leave,
    write_open_clip: Any, small_config: dict[str, Any],
) -> None:  # fmt: skip
    def refused(left: Any, form: str) -> str:
        words = [str(left.run), "--format", form, "--output", str(tmp_path / "new")]
        return refusal(lambda: execute(words))

    (_, vpt), (_, full) = exported["torch vpt"], exported["open_clip full"]
    _, layernorm = exported["open_clip layernorm"]
    assert "use onnx or torch" in refused(vpt, "open_clip")
    assert "use onnx or torch" in refused(vpt, "peft")
    for tower in (full, layernorm):
        assert "use open_clip, onnx or torch" in refused(tower, "peft")
    tower = {**small_config["vision_cfg"], "no_ln_pre": True}
    other = write_open_clip(tmp_path / "other", {**small_config, "vision_cfg": tower})
    message = refused(leave(tmp_path / "runs", *LORA, backbone=other), "peft")
    assert "no norm before its blocks; use open_clip, onnx or torch" in message


def test_bad_arguments_are_refused(
    exported: dict[str, tuple[Path, Any]], refusal: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, left = exported["open_clip lora"]

    def refused(**changes: str) -> str:
        asked = {"run": str(left.run), "form": "onnx", "output": str(tmp_path / "new"), **changes}
        words = [asked["run"], "--format", asked["form"], "--output", asked["output"]]
        return refusal(lambda: execute(words))

    assert "already exists" in refused(output=str(folder))
    assert "no does not exist" in refused(output=str(tmp_path / "no" / "new"))
    assert "invalid choice" in refused(form="keras")
    assert "does not exist" in refused(form="torch", run=str(tmp_path / "none"))
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'flowertune[export]'" in refused()
    assert list(tmp_path.iterdir()) == []
