"""Every example of docs/extending.md, applied to a copy of the source and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def blocks(section: str) -> list[tuple[str, str]]:
    """Language and text of each block of a section of the page."""
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    (text,) = (part for part in page.split("\n## ") if part.startswith(section))
    return BLOCK.findall(text)


def write_files(section: str, folder: Path) -> None:
    """Write the section's files, each of which begins with its path, and apply its diffs."""
    for language, text in blocks(section):
        if language == "diff":
            subprocess.run(["git", "apply", "-"], input=text, text=True, cwd=folder, check=True)
        else:
            path = folder / text.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """`run(*words, source=FOLDER)` runs the flowertune of that folder of modules."""

    def run(*words: str, source: Path) -> "subprocess.CompletedProcess[str]":
        path = os.pathsep.join([str(source), *filter(None, [environment.get("PYTHONPATH")])])
        process = subprocess.run(
            [sys.executable, "-m", "flowertune", *words],
            cwd=tmp_path, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return process

    return run


def test_a_plug_in(run: Run, small: tuple[str, ...], tmp_path: Path) -> None:
    package = tmp_path / "package"
    write_files("A plug-in", package)
    # what pip leaves of pyproject.toml
    entries = re.findall(r'^\w+ = "flowertune_extras.*"$', (package / "pyproject.toml").read_text(),
                         re.MULTILINE)  # fmt: skip
    assert len(entries) == 2
    metadata = package / "flowertune_extras-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: flowertune-extras\nVersion: 1.0\n")
    lines = ["[flowertune.plugins]", *(entry.replace('"', "") for entry in entries)]
    (metadata / "entry_points.txt").write_text("\n".join(lines))

    run("train", *small, "model=last_norm", "loss=poly", "loss.epsilon=2", "run.name=r",
        source=package)  # fmt: skip
    assert "epsilon: 2" in (tmp_path / "runs/r/config.yaml").read_text()
    assert (tmp_path / "runs/r/adapter/visual.safetensors").exists()


def test_a_data_source(run: Run, checkout: Path, tmp_path: Path) -> None:
    write_files("A data source", checkout)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("great_pyrenees", "pug"):
        for number in range(5):
            color = (40 * number, 90, 200) if name == "pug" else (200, 40 * number, 30)
            Image.new("RGB", (80, 60), color).save(images / f"{name}_{number}.jpg")
    words = ("data=prefix", f"data.root={images}", "backbone=tiny", "trainer.epochs=1")
    run("train", *words, "run.report=false", "run.name=r", source=checkout / "src")
    results = json.loads((tmp_path / "runs/r/results.json").read_text())
    assert results["splits"]["test"]["n"] == 2
    model = json.loads((tmp_path / "runs/r/adapter/model.json").read_text())
    assert model["classes"] == ["great_pyrenees", "pug"]


def test_a_metric_and_a_command(
    run: Run, checkout: Path, tmp_path: Path, small: tuple[str, ...]
) -> None:
    write_files("A metric", checkout)
    write_files("A command", checkout)
    run("train", *small, "method=linear_probe", "run.name=r", source=checkout / "src")
    results = json.loads((tmp_path / "runs/r/results.json").read_text())
    assert 0 < results["splits"]["test"]["macro_f1"] <= 1
    accuracy = results["splits"]["test"]["top1"]
    printed = run("accuracy", "runs/r", source=checkout / "src").stdout
    assert printed.splitlines()[-1] == f"test: {accuracy:.2%}"
    assert "accuracy" in run("--help", source=checkout / "src").stdout
