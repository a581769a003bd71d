"""Every method: trained, exported, and opened by the other library alone, which says the same.

What a run said of its val photos itself, in predictions-val.csv, is what is asked of its exports.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import flowertune
from flowertune import cli
from flowertune.config.groups import conf_dir
from flowertune.export import onnx as onnx_graph

pytestmark = pytest.mark.export

TINY = Path(flowertune.__file__).parent / "assets" / "tiny"
METHODS = sorted(path.stem for path in (conf_dir() / "method").iterdir())
PHOTOS = 200
DRAWN = ("data=synthetic", "data.train_per_class=2", "data.val_per_class=10",
         "data.test_per_class=1")  # fmt: skip
SHORT = ("trainer.epochs=1", "run.report=false", "baselines=false", "trainer.device=cpu")
HELD = {"vpt": ("onnx", "torch"), "peft": ("open_clip", "peft", "onnx", "torch")}
WITH_PEFT = ("lora", "dora", "mixup", "cutmix", "triplet", "best")
OTHERS = ("open_clip", "onnx", "torch")

Opened = Callable[..., dict[str, list[list[float]]]]


@dataclass(frozen=True)
class Exported:
    """A finished run, where its photos lie, and what became of it in each format."""

    run: Path
    photos: Path
    exports: dict[str, Path]


def _exported(folder: Path, photos: Path, *words: str) -> Exported:
    """A training in a process of its own, and an export in each format that holds its model."""
    process = subprocess.run(
        [sys.executable, "-m", "flowertune", "train", *words, *SHORT, "run.name=run"],
        cwd=folder,
        env={**os.environ, "FLOWERTUNE_CACHE": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    run = folder / "runs" / "run"
    adapter = {path.name for path in (run / "adapter").iterdir()}
    kind = (
        "vpt" if "prompts.json" in adapter else "peft" if "adapter_config.json" in adapter else ""
    )
    exports = {}
    for form in HELD.get(kind, OTHERS):
        exports[form] = folder / form
        asked = ["export", str(run), "--format", form, "--output", str(exports[form])]
        code = cli.main(asked)
        if form == "peft" and code == 2:  # a tower that transformers' CLIP cannot be
            del exports[form]
            continue
        assert code == 0, form
        for file in exports[form].iterdir():  # nothing names a place of this machine
            assert str(Path(torch.__file__).parent).encode() not in file.read_bytes(), file
    return Exported(run, photos, exports)


def _check(exported: Exported, opened_alone: Opened, base: Path) -> None:
    """The five likeliest classes of each photo and their probabilities, as the run gave them."""
    with (exported.run / "predictions-val.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [rows[place * len(rows) // PHOTOS] for place in range(PHOTOS)]
    photos = [next(exported.photos.rglob(row["path"])) for row in rows]
    classes = sorted({path.parent.name for path in photos})
    folders = list(exported.exports.values())
    found = opened_alone(folders, photos, base)
    for form, folder in exported.exports.items():
        probabilities = torch.tensor(found[str(folder)]).softmax(1)
        names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        assert sorted(names) == classes
        for row, each in zip(rows, probabilities, strict=True):
            assert names[int(each.argmax())] == row["prediction"], (form, row["path"])
            for place in ("", "_2", "_3", "_4", "_5"):
                theirs = each[names.index(row[f"prediction{place}"])].item()
                ours = float(row[f"probability{place}"])
                assert theirs == pytest.approx(ours, abs=1e-4), (form, row["path"])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_the_same_by_the_other_libraries_alone(
    method: str, tmp_path: Path, opened_alone: Opened
) -> None:
    (folder := tmp_path / "here").mkdir()
    made = _exported(folder, tmp_path / "synthetic", f"method={method}", "backbone=tiny", *DRAWN)
    assert ("peft" in made.exports) == (method in WITH_PEFT)
    _check(made, opened_alone, TINY)


@pytest.mark.parametrize(
    ("method", "backbone"),
    [*((method, "tiny") for method in METHODS), ("best", "deit"), ("vpt_deep", "deit")],
)
def test_real_photos_are_answered_the_same(
    method: str, backbone: str, tmp_path: Path, opened_alone: Opened,
    shared_folder: Callable[[str], Path],
) -> None:  # fmt: skip
    photos, base = shared_folder("data/flowers17"), TINY
    loaded: tuple[str, ...] = ("backbone=tiny",)
    if backbone == "deit":
        base = shared_folder("weights/deit-tiny-imagenet")
        loaded = ("backbone=local", f"backbone.path={base}", "backbone.text=false")
    (folder := tmp_path / "here").mkdir()
    words = (*loaded, "data=folder", f"data.root={photos}", "data.shots=4", f"method={method}")
    made = _exported(folder, photos, *words)
    assert ("peft" in made.exports) == (method in WITH_PEFT and backbone == "tiny")
    _check(made, opened_alone, base)


TOWERS = {
    "quick_gelu": {},
    "avg": {"pool_type": "avg"},
    "attentional": {"attentional_pool": True},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
    "timm": {"timm_model_name": "resnet10t", "timm_model_pretrained": False, "timm_pool": "avg",
             "timm_proj": "linear", "image_size": 64},
}  # fmt: skip


@pytest.mark.parametrize("tower", TOWERS)
def test_towers_of_other_kinds_are_exported_too(
    tower: str, tmp_path: Path, leave: Callable[..., Any], write_open_clip: Callable[..., Path],
    small_config: dict[str, Any],
) -> None:  # fmt: skip
    """The comparison at export is what is asked here."""
    own = {} if tower in ("resnet", "timm") else small_config["vision_cfg"]
    settings = {**small_config, "vision_cfg": {**own, **TOWERS[tower]}}
    if tower == "quick_gelu":
        settings["quick_gelu"] = True
    backbone = write_open_clip(tmp_path / "backbone", settings)
    words = ("method=lora", "head=cosine") if own else ("method=full", "head.from_probe=false")
    left = leave(tmp_path / "runs", *words, backbone=backbone)
    for form in ("open_clip", "onnx", "torch", *(["peft"] if tower == "quick_gelu" else [])):
        asked = ["export", str(left.run), "--format", form, "--output", str(tmp_path / form)]
        assert cli.main(asked) == 0, form


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    tmp_path: Path, leave: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    opened_alone: Opened, val_photos: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(onnx_graph, "LARGEST_FILE", 1000)
    left, folder = leave(tmp_path / "runs", "method=lora"), tmp_path / "onnx"
    asked = ["export", str(left.run), "--format", "onnx", "--output", str(folder)]
    assert cli.main(asked) == 0
    assert (folder / "model.onnx").stat().st_size < (folder / "model.onnx.data").stat().st_size
    assert "- `model.onnx.data`: " in (folder / "README.md").read_text()
    assert opened_alone([folder], sorted(val_photos.rglob("*.png")))[str(folder)]


def _graph_of_other_images() -> bytes:
    import onnx

    images, logits = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 7])
        for name in ("images", "logits")
    )
    node = onnx.helper.make_node("Relu", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "graph", [images], [logits])
    opset = onnx.helper.make_opsetid("", 18)
    made: bytes = onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[opset]
    ).SerializeToString()
    return made


@pytest.mark.parametrize(
    ("content", "reason"),
    [(lambda: b"roses are red", "INVALID_PROTOBUF"), (_graph_of_other_images, "INVALID_ARGUMENT")],
)
def test_what_onnx_runtime_cannot_run_is_told_in_a_line_and_not_kept(
    content: Callable[[], bytes], reason: str, tmp_path: Path, leave: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """No graph at all, and one that takes no batch of ours."""

    def write(model: Any, folder: Path) -> dict[str, str]:
        (folder / onnx_graph.MODEL).write_bytes(content())
        return {}

    monkeypatch.setattr(onnx_graph, "write", write)
    left, folder = leave(tmp_path / "runs", "method=lora"), tmp_path / "onnx"
    asked = ["export", str(left.run), "--format", "onnx", "--output", str(folder)]
    assert cli.main(asked) == 1
    said = capsys.readouterr().err
    assert said.startswith("flowertune export: ONNX Runtime cannot run what was made: ")
    assert reason in said
    assert said.count("\n") == 1
    assert not folder.exists()
