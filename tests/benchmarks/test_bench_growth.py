"""bench_growth.py: its datasets, the rows of its table, and flatness."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_growth
import numpy as np
import pytest
from peers import child, memory, table
from peers.work import link_photos
from PIL import Image

SCRIPT = Path(bench_growth.__file__)


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of two classes with three small JPEGs each."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("aster", "iris"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


def rows_of(medians: dict[str, float]) -> dict[str, table.Row]:
    """Rows with these milliseconds per step, and 1 in all other columns."""
    one = {"median": 1.0, "least": 1.0, "most": 1.0}
    return {
        name: {key: dict(one) for key, *_ in bench_growth.COLUMNS} | {"step_ms": {"median": step}}
        for name, step in medians.items()
    }


def test_copies_are_links_under_other_names_in_the_same_classes(
    drawn: Path, tmp_path: Path
) -> None:
    assert link_photos(drawn, tmp_path, 4, ("train",), copies=4) == {"train": 16}
    for name in ("aster", "iris"):
        found = sorted((tmp_path / "train" / name).iterdir())
        assert len(found) == 8
        originals = {drawn / "train" / name / f"{number}.jpg" for number in (0, 1)}
        assert {each.resolve() for each in found} == {each.resolve() for each in originals}
    assert not (tmp_path / "val").exists()


def test_ratios_are_to_the_smallest_dataset_with_the_same_residency() -> None:
    rows = bench_growth.with_ratios(
        rows_of({"6 device": 2.0, "6 stream": 4.0, "24 device": 2.1, "24 stream": 4.8})
    )
    ratios = {name: row["step_ms"]["ratio"] for name, row in rows.items()}
    assert ratios == pytest.approx(
        {"6 device": 1, "6 stream": 1, "24 device": 1.05, "24 stream": 1.2}
    )
    assert "step no (1.20), validation yes (1.00)" in bench_growth.flatness(rows)


def test_flatness_also_covers_lower_cost() -> None:
    rows = bench_growth.with_ratios(rows_of({"6 device": 2.0, "24 device": 1.7}))
    assert "step no (0.85)" in bench_growth.flatness(rows)
    rows = bench_growth.with_ratios(rows_of({"6 device": 2.0, "24 device": 1.9}))
    assert "step yes (0.95)" in bench_growth.flatness(rows)


# in a new process, without memory of other tests
WATCHED = """
import json, sys
import numpy as np
from peers import memory
size, path = 64 * 2**20, sys.argv[1]
before = memory.resident()
watch = memory.MemoryWatch()
mapped = np.memmap(path, np.uint8, mode="r")
mapped[::4096].max()
own = np.ones(2 * size, np.uint8)
peaks = watch.peaks()
print(json.dumps({kind: (peak - before[kind]) / size for kind, peak in peaks.items()}))
"""


@pytest.mark.skipif(not memory.STATUS.exists(), reason="needs /proc/self/status")
def test_mapped_pages_do_not_count_as_private(tmp_path: Path) -> None:
    path = tmp_path / "pixels"
    path.write_bytes(bytes(64 * 2**20))
    said = subprocess.run(
        [sys.executable, "-c", WATCHED, str(path)],
        capture_output=True, text=True, check=True, cwd=SCRIPT.parent,
    ).stdout  # fmt: skip
    grown = json.loads(said)
    assert grown["mapped_bytes"] == pytest.approx(1, rel=0.1)
    assert grown["private_bytes"] == pytest.approx(2, rel=0.1)


def test_missing_images_give_one_line(tmp_path: Path) -> None:
    done = bench(FLOWERTUNE_SHARED=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench_growth: ")
    assert str(tmp_path / "data/flowers17") in line


def test_each_dataset_and_residency_has_its_row(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measure(script: Path, task: str, job: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        photos = len(list(Path(job["work"]["photos"]).glob("*/*/*.jpg")))
        if task == "cache":
            return {"photos": photos, "seconds": photos / 100}
        asked.append(f"{photos} {job['residency']}")
        return {
            "step_ms": photos, "val_ms": 1.0, "private_bytes": 1e9, "mapped_bytes": 0,
            "gpu_bytes": 0, "device": "cpu", "precision": "fp32",
        }  # fmt: skip

    monkeypatch.setattr(child, "measure", measure)
    monkeypatch.setattr(bench_growth, "write_backbone", lambda *_, **__: None)
    out = tmp_path / "growth.json"
    words = ["--photos", str(drawn), "--factors", "2", "1", "--base-photos", "4", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["bench_growth", *words, "--json", str(out)])
    assert bench_growth.main() == 0
    # train and val, the smallest dataset first; the second round starts with another setting
    assert asked == ["8 device", "8 stream", "16 device", "16 stream",
                     "8 stream", "16 device", "16 stream", "8 device"]  # fmt: skip
    names = ["4 device", "4 stream", "8 device", "8 stream"]
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1].strip() for line in printed if line[:2] == "| "]
    assert rows == ["train images", "---", *names]
    found = json.loads(out.read_text())
    assert list(found["summary"]) == names
    assert found["photos"] == {"1x": {"train": 4, "val": 4}, "2x": {"train": 8, "val": 8}}
    assert found["summary"]["8 stream"]["cache_seconds"]["median"] == 10
    assert found["flatness"] in printed
    assert "step no (2.00), validation yes (1.00), cache yes (1.00)" in found["flatness"]


def test_training_is_measured_with_both_residencies(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    done = bench(
        "--photos", str(drawn), "--factors", "2", "--base-photos", "4", "--steps", "1",
        "--batch-size", "4", "--rounds", "1", "--device", "cpu", "--json", str(out),
        TMPDIR=str(tmp_path), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["cache"]["2x"]["photos"] == 16
    assert [run["resident"] for run in found["runs"]] == [True, False]
    for run in found["runs"]:
        assert run["step_ms"] > 0
        assert run["val_ms"] > 0
        if memory.STATUS.exists():
            assert run["private_bytes"] > 1e8
            assert run["mapped_bytes"] > 1e7
    assert [path.name for path in tmp_path.iterdir()] == ["growth.json"]  # the caches are gone
