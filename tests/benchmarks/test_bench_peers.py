"""bench_peers.py: all peers do the same work, and the table has the measurements."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from peers import notebook, table
from peers.work import Work, link_photos
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_peers.py"


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of three classes with seven JPEGs each."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("aster", "iris", "tulip"):
            (root / split / name).mkdir(parents=True)
            for number in range(7):
                pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_the_tower_in_transformers_equals_the_one_in_open_clip(
    tmp_path: Path,
    small_config: dict[str, Any],
    write_open_clip: Callable[[Path, dict[str, Any]], Path],
    images: torch.Tensor,
    quick_gelu: bool,
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from peers import hf_trainer

    folder = write_open_clip(tmp_path / "small", {**small_config, "quick_gelu": quick_gelu})
    visual = open_clip.create_model(f"local-dir:{folder}").eval().visual
    with torch.inference_mode():
        found = hf_trainer.tower(folder).eval()(pixel_values=images).image_embeds
        torch.testing.assert_close(found, visual(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("opened", "matrices_per_block"), [(True, 8), (False, 6)])
def test_the_untrained_tower_of_the_notebook_equals_the_one_in_open_clip(
    small_dir: Path, images: torch.Tensor, opened: bool, matrices_per_block: int
) -> None:
    visual = open_clip.create_model(f"local-dir:{small_dir}").eval().visual
    work = Work("", str(small_dir), 16, 1, "cpu", "fp32", 0, rank=4)
    adapted = notebook.tower(work, opened).eval()
    with torch.inference_mode():
        torch.testing.assert_close(adapted(images), visual(images), rtol=1e-4, atol=1e-4)
    # rank 4, width 64; peft's wrapper of the whole attention has one A and three Bs for q, k, v
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == 3 * matrices_per_block * 4 * 64


@pytest.mark.parametrize("opened", [True, False])
def test_every_matrix_of_the_notebooks_lora_is_trained(
    small_dir: Path, images: torch.Tensor, opened: bool
) -> None:
    work = Work("", str(small_dir), 16, 1, "cpu", "fp32", 0)
    adapted = notebook.tower(work, opened)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    for _ in range(2):  # the A's get a gradient once the B's are not zero
        optimizer.zero_grad()
        adapted(images).square().sum().backward()
        optimizer.step()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def test_the_limit_takes_images_from_all_classes(drawn: Path, tmp_path: Path) -> None:
    assert link_photos(drawn, tmp_path / "five", 5) == {"train": 5, "val": 5}
    found = sorted(path.relative_to(tmp_path / "five/train").as_posix()
                   for path in (tmp_path / "five/train").glob("*/*"))  # fmt: skip
    assert found == ["aster/0.jpg", "aster/1.jpg", "iris/0.jpg", "iris/1.jpg", "tulip/0.jpg"]
    assert link_photos(drawn, tmp_path / "all", None) == {"train": 21, "val": 21}


def test_table_has_medians_and_ratios() -> None:
    keys = [key.replace("_gb", "_bytes") for key, *_ in table.COLUMNS]
    runs = [
        {"name": name, **dict.fromkeys(keys, 0), "seconds": seconds, "memory_bytes": 2e9}
        for name, seconds in [("flowertune", 3), ("flowertune", 1), ("flowertune", 2), ("peer", 8)]
    ]
    found = table.summary(runs)
    assert found["flowertune"]["seconds"] == {"median": 2, "least": 1, "most": 3, "ratio": 1}
    assert found["peer"]["seconds"]["ratio"] == 0.25
    head, _, ours, peer = table.lines(runs)
    assert "GPU" not in head
    assert ours.startswith("| flowertune | 2.0 (1.0 to 3.0) |  |")
    assert peer.startswith("| peer | 8.0 | 0.25 |")


def test_missing_images_give_one_line(tmp_path: Path) -> None:
    done = bench(FLOWERTUNE_SHARED=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "data/flowers17") in line


@pytest.mark.slow
def test_all_peers_do_the_same_work(drawn: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    out = tmp_path / "peers.json"
    names = ["flowertune", "flowertune_plain_head", "hf_trainer", "notebook", "peft_mha"]
    done = bench(
        "--model", "vit_tiny", "--photos", str(drawn), "--limit", "16", "--epochs", "1",
        "--batch-size", "8", "--rounds", "1", "--device", "cpu", "--json", str(out),
        "--peers", *names[1:],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:2] == "| "]
    assert rows == ["library", "---", *names]
    runs = {run["name"]: run for run in found["runs"]}
    assert list(runs) == list(found["summary"]) == names
    head, width, rank = 3 * (192 + 1), 192, found["work"]["rank"]
    lora = {name: run["trainable_parameters"] - head for name, run in runs.items()}
    assert lora["flowertune"] == 12 * 4 * rank * 2 * width
    assert lora["hf_trainer"] == lora["notebook"] == lora["flowertune"]
    assert lora["flowertune_plain_head"] == lora["flowertune"]
    assert "head.standardize=false" in runs["flowertune_plain_head"]["settings"]
    assert "head.standardize" not in runs["flowertune"]["settings"]
    assert 4 * lora["peft_mha"] == 3 * lora["flowertune"]  # one A for q, k and v
    for run in runs.values():
        assert run["process_seconds"] > run["seconds"] > 0
        assert run["memory_bytes"] > 1e8
        assert 0 < run["loss"] < 20
