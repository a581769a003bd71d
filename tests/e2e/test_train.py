"""`flowertune train` from the command line to the files it leaves."""

import csv
import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file

from flowertune import files
from flowertune.models.backbone import TINY, load_directory

FIGURES = (
    "accuracy", "calibration", "confusion", "embeddings", "learning_rate", "loss", "per_class",
)  # fmt: skip


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_what_later_use_needs(trained: Path) -> None:
    assert files_below(trained) == {
        "config.yaml",
        "environment.json",
        "status.json",
        "run.log",
        "photos.csv",
        "metrics.jsonl",
        "timings.jsonl",
        "results.json",
        "predictions-train.csv",
        "predictions-val.csv",
        "predictions-test.csv",
        "checkpoints/best/model.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/head.safetensors",
        "adapter/model.json",
        "report.html",
        "report/SHA256SUMS",
        "report/photos.json",
        "report/embeddings.safetensors",
        *(f"figures/{figure}.{ending}" for figure in FIGURES for ending in ("png", "svg")),
    }
    assert read_json(trained / "status.json") == {
        "state": "finished",
        "why": None,
        "results_sha256": files.sha256_of(trained / "results.json"),
    }
    environment = read_json(trained / "environment.json")
    assert environment["activation"] in ("gelu", "quickgelu")
    assert len(environment["data_fingerprint"]) == 64
    assert environment["packages"]["torch"] == metadata.version("torch")


def keys_of(node: Any, prefix: str = "") -> set[str]:
    """Each value's whole key, as splits.test.top1."""
    if not isinstance(node, dict):
        return {prefix}
    return {key for name in node for key in keys_of(node[name], f"{prefix}.{name}".lstrip("."))}


def test_results_have_these_keys(trained: Path) -> None:
    measured = {"n", "loss", "top1", "top1_interval", "top5", "mean_per_class", "per_class", "ece"}
    places = (
        "splits.train", "splits.val", "splits.test",
        "baselines.zeroshot.splits.val", "baselines.zeroshot.splits.test",
        "baselines.linear_probe.splits.train", "baselines.linear_probe.splits.val",
        "baselines.linear_probe.splits.test",
    )  # fmt: skip
    assert keys_of(read_json(trained / "results.json")) == {
        "run", "method", "model", "head", "augmentation", "loss", "backbone", "tag",
        "weights_sha256", "data_fingerprint", "protocol", "seed", "device", "precision",
        "trainable_parameters", "epochs_run", "best_epoch", "adapter_scale", "seconds",
        "images_per_second", "notes", "baselines.zeroshot.trainable_parameters",
        "baselines.linear_probe.trainable_parameters", "baselines.linear_probe.weight_decay",
        *(f"{place}.{name}" for place in places for name in measured),
    }  # fmt: skip


def test_its_report_is_of_its_photos_and_of_its_embeddings_before_and_after(trained: Path) -> None:
    assert "mixup: " in (trained / "report.html").read_text()
    photos = read_json(trained / "report" / "photos.json")
    with (trained / "predictions-test.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    for photo in photos["mistakes"]:
        row = predictions[photo["row"]]
        assert row["path"] == photo["path"]
        assert row["label"] != row["prediction"]
    assert {photo["path"].split("/")[0] for photo in photos["augmented"]} == {"train"}
    kept = load_file(trained / "report" / "embeddings.safetensors")
    assert kept["before"].shape == kept["after"].shape == (len(predictions), 128)
    assert not torch.equal(kept["before"], kept["after"])


def test_results_hold_every_number_with_its_protocol(trained: Path) -> None:
    results = read_json(trained / "results.json")
    assert results["method"] == "mixup"
    assert (results["backbone"], results["tag"], results["seed"]) == ("tiny", "builtin", 42)
    assert "20 species" in results["protocol"]
    assert {name: split["n"] for name, split in results["splits"].items()} == {
        "train": 60,
        "val": 40,
        "test": 60,
    }
    for measured in (
        results["splits"],
        results["baselines"]["zeroshot"]["splits"],
        results["baselines"]["linear_probe"]["splits"],
    ):
        test = measured["test"]
        low, high = test["top1_interval"]
        assert 0 <= low <= test["top1"] <= high <= 1
        assert test["top1"] <= test["top5"] <= 1
        assert len(test["per_class"]) == 20
    # LoRA of rank 8 on four square projections a block, and a linear head
    head = load_file(trained / "adapter" / "head.safetensors")
    adapter = load_file(trained / "adapter" / "adapter_model.safetensors")
    trained_numbers = sum(tensor.numel() for tensor in adapter.values())
    trained_numbers += head["linear.weight"].numel() + head["linear.bias"].numel()
    assert results["trainable_parameters"] == trained_numbers
    assert results["epochs_run"] == 2
    assert results["seconds"] > 0
    assert results["images_per_second"] > 0


def test_metrics_hold_no_clock_and_every_step(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, 9))  # 60 photos in batches of 16
    assert all({"loss", "lr", "head_lr", "gradient_norm"} <= line.keys() for line in steps)
    assert [line["epoch"] for line in lines if line["split"] == "val"] == [1, 2]
    assert not any("second" in key or "time" in key for line in lines for key in line)


def test_the_predictions_are_what_other_libraries_get_from_the_run(trained: Path) -> None:
    """PIL, open_clip's own preprocessing, peft and the head's file: none of our pixels or code."""
    model = read_json(trained / "adapter" / "model.json")
    backbone = load_directory(TINY, text=False)  # the same opened attention that peft's keys name
    visual = peft.PeftModel.from_pretrained(backbone.visual, str(trained / "adapter")).eval()
    head = load_file(trained / "adapter" / "head.safetensors")
    transform = image_transform_v2(
        PreprocessCfg(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in model["preprocessing"].items()}
        ),
        is_train=False,
    )
    root = Path(read_json(trained / "environment.json")["data_root"])
    with (trained / "predictions-test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    images = torch.stack([transform(Image.open(root / row["path"])) for row in rows])
    with torch.inference_mode():
        embedding = visual(images)
        standard = (embedding - head["mean"]) / head["std"]
        logits = standard @ head["linear.weight"].T + head["linear.bias"]
        top = logits.softmax(1).topk(5)
    for row, values, indices in zip(rows, top.values.tolist(), top.indices.tolist(), strict=True):
        assert row["prediction"] == model["classes"][indices[0]]
        assert float(row["probability"]) == pytest.approx(values[0], abs=1e-4)
        assert float(row["probability_5"]) == pytest.approx(values[4], abs=1e-4)
    hits = sum(row["label"] == row["prediction"] for row in rows)
    results = read_json(trained / "results.json")
    assert results["splits"]["test"]["top1"] == pytest.approx(hits / 60)


def test_the_same_command_gives_the_same_bits_with_baselines_or_without(
    small: tuple[str, ...], trained: Path, flowertune: Any, same_training: Any, tmp_path: Path
) -> None:
    words = ("train", "method=mixup", *small)
    for extra in ("baselines=true", "baselines=false"):
        name = extra.replace("=", "_")
        process = flowertune(*words, extra, f"run.name={name}", cwd=tmp_path)
        assert process.returncode == 0, process.stderr
        same_training(trained, tmp_path / "runs" / name)
    without = read_json(tmp_path / "runs" / "baselines_false" / "results.json")
    assert without["baselines"] == {"zeroshot": None, "linear_probe": None}
    assert without["notes"]


def test_a_finished_run_is_reported_and_not_repeated(
    small: tuple[str, ...], trained: Path, flowertune: Any, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "runs" / "first")
    before = {name: (tmp_path / "runs/first" / name).stat().st_mtime_ns
              for name in files_below(tmp_path / "runs/first")}  # fmt: skip
    words = ("train", "method=mixup", *small, "run.name=first")
    again = flowertune(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stdout
    assert "linear probe" in again.stdout
    after = {name: (tmp_path / "runs/first" / name).stat().st_mtime_ns
             for name in files_below(tmp_path / "runs/first")}  # fmt: skip
    assert after == before

    other = flowertune(*words, "seed=1", cwd=tmp_path)
    assert other.returncode == 2
    assert "another config (seed)" in other.stderr


def test_an_unfinished_run_is_refused(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    process = flowertune("train", *small, "run.name=mine", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "runs/mine: exists and is not a finished run" in process.stderr
    assert files_below(tmp_path) == set()
