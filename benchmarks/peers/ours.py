"""Train with the flowertune command and read the measurements from the run directory."""

import json
import os
from pathlib import Path
from typing import Any

from peers.work import Work, epoch_result


def settings(work: Work) -> list[str]:
    """Arguments for the training and its data."""
    return [
        "method=lora", "baselines=false",
        "data=folder", f"data.root={work.photos}",
        "backbone=local", f"backbone.path={work.backbone}", "backbone.text=false",
        f"model.rank={work.rank}", f"model.alpha={work.alpha}", f"seed={work.seed}",
        f"trainer.batch_size={work.batch_size}", f"trainer.epochs={work.epochs}",
        f"trainer.device={work.device}", f"trainer.precision={work.precision}",
    ]  # fmt: skip


def words(work: Work, root: Path, plain_head: bool) -> list[str]:
    """Arguments of the `flowertune` command."""
    head = ["head.standardize=false"] if plain_head else []
    return ["train", *settings(work), *head, f"run.root={root}", "run.name=bench"]


def run(work: Work, scratch: Path, plain_head: bool) -> dict[str, Any]:
    """Train once with an empty image cache.

    prepare_seconds covers everything from the first decoding to the end of the last epoch that is
    neither training nor validation: decoding train and val, frozen features to standardize the head
    (without `plain_head`), and writing the weights of the best epoch.
    """
    # its mtime is set when its only entry is created, at the start of decoding
    cache = scratch / "cache_parent"
    cache.mkdir()
    os.environ["FLOWERTUNE_CACHE"] = str(cache / "cache")
    from flowertune.cli import main

    typed = words(work, scratch, plain_head)
    exit_code = main(typed)
    if exit_code:
        raise SystemExit(exit_code)
    folder = scratch / "bench"
    timings = _lines(folder / "timings.jsonl")
    metrics = _lines(folder / "metrics.jsonl")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    train = [each["train_seconds"] for each in timings]
    val = [each["val_seconds"] for each in timings]
    began, ended = cache.stat().st_mtime, (folder / "timings.jsonl").stat().st_mtime
    last = [
        each["loss"] for each in metrics
        if each["split"] == "train" and each["epoch"] == len(timings)
    ]  # fmt: skip
    top1 = [each["top1"] for each in metrics if each["split"] == "val"]
    photos = results["splits"]["train"]["n"]
    return {
        **epoch_result(train, val, photos, ended - began - sum(train) - sum(val)),
        "loss": sum(last) / len(last),
        "val_top1": top1[-1],
        "trainable_parameters": results["trainable_parameters"],
        "device": results["device"],
        "precision": results["precision"],
        "settings": "flowertune " + " ".join(typed),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
