"""Methods and settings, each as a whole training: what sets its run apart from another's."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flowertune.config.groups import conf_dir


def results_of(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


@pytest.mark.parametrize("method", sorted(path.stem for path in (conf_dir() / "method").iterdir()))
def test_every_preset_trains(
    method: str, small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    process = flowertune("train", f"method={method}", *small, "run.name=r", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = results_of(tmp_path / "runs/r")
    assert results["method"] == method
    assert results["splits"]["test"]["top1"] > 1 / 20  # better than guessing


@pytest.mark.parametrize(
    "words",
    [
        ("method=linear_probe", "probe.solver=adamw"),
        ("method=vpt_shallow", "model.position=end", "model.init=normal", "head=text"),
        ("method=full", "trainer.adapter_scales=[0.5]"),
        ("head=text", "model.targets=[q,v,mlp]", "model.layers=[1,3]", "model.dropout=0.1"),
        ("trainer.precision=bf16", "trainer.accumulation=2", "trainer.patience=1"),
    ],
)
def test_other_models_heads_and_settings_train(
    small: tuple[str, ...], words: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    process = flowertune("train", *small, *words, "run.name=r", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = results_of(tmp_path / "runs/r")
    assert results["splits"]["test"]["top1"] > 1 / 20  # better than guessing


def test_zero_shot_and_the_probe_as_methods_agree_with_the_baselines_beside_them(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    for method in ("zeroshot", "linear_probe"):
        (folder := tmp_path / method).mkdir()
        process = flowertune("train", *small, f"method={method}", "run.name=r", cwd=folder)
        assert process.returncode == 0, process.stderr
        results = results_of(folder / "runs/r")
        baseline = results["baselines"][method]
        assert results["trainable_parameters"] == baseline["trainable_parameters"]
        assert results["epochs_run"] == 0
        for split, measured in baseline["splits"].items():
            its_own = results["splits"][split]
            assert its_own["top1"] == pytest.approx(measured["top1"], abs=1 / measured["n"])
            assert its_own["loss"] == pytest.approx(measured["loss"], rel=1e-3)


def test_a_run_of_vpt_leaves_its_prompts_and_can_be_repeated(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    words = ("train", "method=vpt_deep", "model.dropout=0.1", *small)
    for name in ("first", "second"):
        process = flowertune(*words, f"run.name={name}", cwd=tmp_path)
        assert process.returncode == 0, process.stderr
    first, second = tmp_path / "runs/first", tmp_path / "runs/second"
    for file in ("adapter/prompts.safetensors", "adapter/head.safetensors", "metrics.jsonl"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    results = results_of(first)
    assert results["splits"]["test"]["top1"] > 1 / 20
    # 16 tokens of width 128 in each of 4 blocks; 20 classes of an embedding of 128
    assert results["trainable_parameters"] == 4 * 16 * 128 + 20 * 128 + 20
    assert load_file(first / "adapter/prompts.safetensors")["embeddings"].shape == (4, 16, 128)
    assert json.loads((first / "adapter/prompts.json").read_text())["depth"] == 4


def test_triplet_trains_and_logs_its_terms_apart(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    process = flowertune("train", "method=triplet", *small, "run.name=r", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    lines = (tmp_path / "runs/r/metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if line["split"] == "train"]
    assert len(steps) == 2 * 5  # 20 classes, 4 in a batch
    for line in steps:
        assert line["loss"] == pytest.approx(line["ce"] + 0.3 * line["triplet"])
        assert 0 <= line["active_triplets"] <= 1
        assert (line["triplet"] > 0) == (line["active_triplets"] > 0)
    assert any(line["triplet"] > 0 for line in steps)
    results = results_of(tmp_path / "runs/r")
    assert results["splits"]["test"]["top1"] > 1 / 20  # better than guessing


def test_a_head_may_start_as_the_probe_and_the_adapter_be_scaled_on_val(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    """With rates that move nothing, what is trained is the probe, and every scale gives that."""
    words = (
        *small, "method=lora", "head.from_probe=true", "trainer.adapter_scales=[0,0.5]",
        "optimizer.lr=1e-12", "optimizer.head_lr=1e-12", "run.name=r",
    )  # fmt: skip
    process = flowertune("train", *words, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = results_of(tmp_path / "runs/r")
    probe = results["baselines"]["linear_probe"]
    assert results["splits"]["test"]["loss"] == pytest.approx(
        probe["splits"]["test"]["loss"], rel=1e-3
    )
    assert results["adapter_scale"] in (0, 0.5, 1)


def test_averaged_weights_are_what_is_validated_kept_and_measured(
    small: tuple[str, ...], trained: Path, flowertune: Any, tmp_path: Path
) -> None:
    words = ("method=mixup", "trainer.ema=0.9", "baselines=false", "run.name=r")
    process = flowertune("train", *small, *words, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    run = tmp_path / "runs" / "r"
    plain, averaged = (
        [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (trained, run)
    )
    for one, two in zip(plain, averaged, strict=True):
        assert (one == two) == (one["split"] == "train")
    results = results_of(run)
    (best,) = (
        line
        for line in averaged
        if line["split"] == "val" and line["epoch"] == results["best_epoch"]
    )
    for name in ("loss", "top1", "mean_per_class"):
        assert results["splits"]["val"][name] == best[name]
    kept, written = (
        load_file(run / name)
        for name in ("checkpoints/best/model.safetensors", "adapter/head.safetensors")
    )
    assert torch.equal(kept["head.linear.weight"], written["linear.weight"])


def test_trainval_trains_on_both_selects_nothing_and_measures_test_once(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    words = ("method=cutmix", "augmentation.mix_off_epochs=1", "data.protocol=trainval")
    process = flowertune(
        "train", *small, *words, "probe.weight_decay=1e-2", "run.name=r", cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    run = tmp_path / "runs" / "r"
    results = results_of(run)
    assert {name: split["n"] for name, split in results["splits"].items()} == {
        "train": 100,  # 3 + 2 a species
        "test": 60,
    }
    assert "trainval: train and val combined into a training set of 100" in results["protocol"]
    assert results["best_epoch"] is None
    assert results["epochs_run"] == 2
    probe = results["baselines"]["linear_probe"]
    assert probe["weight_decay"] == 1e-2
    assert probe["splits"].keys() == {"train", "test"}
    assert results["baselines"]["zeroshot"]["splits"].keys() == {"test"}
    with (run / "photos.csv").open() as file:
        photos = [(row["split"], row["path"].split("/")[0]) for row in csv.DictReader(file)]
    assert set(photos) == {("train", "train"), ("train", "val"), ("test", "test")}
    assert not (run / "predictions-val.csv").exists()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train"] * 14  # 100 photos in batches of 16
    assert "val loss" not in process.stdout
    assert "last of 2 epochs" in process.stdout

    shots = (*small, "data.protocol=trainval", "data.shots=4", "baselines=false", "run.name=shots")
    process = flowertune("train", *shots, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = results_of(tmp_path / "runs/shots")
    assert results["splits"]["train"]["n"] == 80
    assert "4-shot" in results["protocol"]


def test_a_text_tower_that_means_nothing_is_left_alone(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    words = ("backbone.text=false", "run.name=r")
    process = flowertune("train", *small, *words, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = results_of(tmp_path / "runs/r")
    assert results["baselines"]["zeroshot"] is None
    assert results["baselines"]["linear_probe"] is not None
