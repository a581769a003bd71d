"""`flowertune train` from the command line to the files it leaves."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file

from flowertune.models.backbone import load_tiny


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
    }
    assert read_json(trained / "status.json") == {"state": "finished", "why": None}
    environment = read_json(trained / "environment.json")
    assert environment["activation"] in ("gelu", "quickgelu")
    assert len(environment["data_fingerprint"]) == 64
    assert environment["packages"]["torch"] == metadata.version("torch")


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
    backbone = load_tiny()  # the same opened attention that peft's keys name
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


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.epochs=2",),
        # in the only step, and without a validation that would meet it
        ("data.protocol=trainval", "baselines=false", "trainer.epochs=1", "trainer.batch_size=100"),
    ],
)
def test_a_loss_that_explodes_fails_the_run_and_says_so(
    words: tuple[str, ...], small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    rates = ("optimizer.lr=1e38", "optimizer.head_lr=1e38")
    process = flowertune("train", *small, *words, *rates, "run.name=r", cwd=tmp_path)
    assert process.returncode == 1
    status = read_json(tmp_path / "runs" / "r" / "status.json")
    assert status["state"] == "failed"
    assert "is not finite" in status["why"]
    assert status["why"] in process.stderr
    assert "Traceback" not in process.stderr


def test_a_termination_signal_leaves_a_run_that_says_so(
    small: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flowertune", "train", *small, "trainer.epochs=10000", "run.name=r"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "runs" / "r" / "metrics.jsonl"
    while not metrics.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "interrupted by SIGTERM" in errors
    assert "Traceback" not in errors
    assert read_json(tmp_path / "runs/r/status.json")["state"] == "interrupted"
    load_file(tmp_path / "runs/r/checkpoints/best/model.safetensors")


@pytest.mark.parametrize(
    "words",
    [
        ("method=zeroshot",),
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
    results = read_json(tmp_path / "runs" / "r" / "results.json")
    assert results["splits"]["test"]["top1"] > 1 / 20  # better than guessing


def test_zero_shot_and_the_probe_as_methods_agree_with_the_baselines_beside_them(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    for method in ("zeroshot", "linear_probe"):
        (folder := tmp_path / method).mkdir()
        process = flowertune("train", *small, f"method={method}", "run.name=r", cwd=folder)
        assert process.returncode == 0, process.stderr
        results = read_json(folder / "runs" / "r" / "results.json")
        baseline = results["baselines"][method]
        assert results["trainable_parameters"] == baseline["trainable_parameters"]
        assert results["epochs_run"] == 0
        for split, measured in baseline["splits"].items():
            its_own = results["splits"][split]
            assert its_own["top1"] == pytest.approx(measured["top1"], abs=1 / measured["n"])
            assert its_own["loss"] == pytest.approx(measured["loss"], rel=1e-3)


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
    results = read_json(tmp_path / "runs" / "r" / "results.json")
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
    results = read_json(run / "results.json")
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
    results = read_json(run / "results.json")
    assert {name: split["n"] for name, split in results["splits"].items()} == {
        "train": 100,  # 3 + 2 a species
        "test": 60,
    }
    assert "trainval: train and val are one training set of 100" in results["protocol"]
    assert results["best_epoch"] is None
    assert results["epochs_run"] == 2
    probe = results["baselines"]["linear_probe"]
    assert probe["weight_decay"] == 1e-2
    assert probe["splits"].keys() == {"train", "test"}
    assert results["baselines"]["zeroshot"]["splits"].keys() == {"test"}
    with (run / "photos.csv").open() as file:
        photos = [(row["split"], row["path"].split("/")[0]) for row in csv.DictReader(file)]
    assert set(photos) == {("train", "train"), ("train", "val"), ("test", "test")}
    assert "predictions-val.csv" not in files_below(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train"] * 14  # 100 photos in batches of 16
    assert "val loss" not in process.stdout
    assert "last of 2 epochs" in process.stdout

    shots = (*small, "data.protocol=trainval", "data.shots=4", "baselines=false", "run.name=shots")
    process = flowertune("train", *shots, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = read_json(tmp_path / "runs" / "shots" / "results.json")
    assert results["splits"]["train"]["n"] == 80
    assert "4-shot" in results["protocol"]


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
    results = read_json(first / "results.json")
    assert results["splits"]["test"]["top1"] > 1 / 20
    # 16 tokens of width 128 in each of 4 blocks; 20 classes of an embedding of 128
    assert results["trainable_parameters"] == 4 * 16 * 128 + 20 * 128 + 20
    assert load_file(first / "adapter/prompts.safetensors")["embeddings"].shape == (4, 16, 128)
    assert read_json(first / "adapter/prompts.json")["depth"] == 4


def test_a_reader_that_goes_away_does_not_cost_the_run(
    small: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    command = f"{sys.executable} -m flowertune train {' '.join(small)} run.name=r | head -n 1"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True)
    assert read_json(tmp_path / "runs/r/status.json")["state"] == "finished"


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
    results = read_json(tmp_path / "runs/r/results.json")
    assert results["splits"]["test"]["top1"] > 1 / 20  # better than guessing


@pytest.mark.parametrize(
    ("word", "why"),
    [("augmentation=mixup", "of one class each"), ("data.shots=1", "one training photo in each")],
)
def test_triplets_of_mixed_or_of_single_photos_are_refused(
    word: str, why: str, small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    process = flowertune("train", "method=triplet", *small, word, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert why in process.stderr
    assert not (tmp_path / "runs").exists()


def test_what_this_backbone_cannot_take_is_refused_before_a_run_exists(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    for words, message in (
        (("model.layers=[99]",), "model.layers=[99]: tiny has the layers 0 to 3"),
        (("method=vpt", "model.depth=99"), "model.depth=99: tiny has 4 blocks; give 1 to 4"),
    ):
        process = flowertune("train", *small, *words, cwd=tmp_path)
        assert process.returncode == 2
        assert message in process.stderr
        assert process.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_text_tower_that_means_nothing_is_left_alone(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    words = ("backbone.text=false", "run.name=r")
    process = flowertune("train", *small, *words, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = read_json(tmp_path / "runs/r/results.json")
    assert results["baselines"]["zeroshot"] is None
    assert results["baselines"]["linear_probe"] is not None
