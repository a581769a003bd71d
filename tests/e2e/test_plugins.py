"""A package's adapter, loss, head and solver in a training, and afterwards without the package."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import plugin_package
import pytest
from safetensors.torch import load_file

WORDS = (
    "model=last_norm", "loss=poly", "loss.epsilon=0.5", "head=mlp", "head.width=16",
    "probe.solver=means",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plugin_package.install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def with_plugins(environment: dict[str, str], site: Path) -> Any:
    """`with_plugins(*words, cwd=...)` runs flowertune beside the package."""
    path = os.pathsep.join([str(site), *filter(None, [environment.get("PYTHONPATH")])])

    def run(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flowertune", *words],
            cwd=cwd, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def run(
    with_plugins: Any, small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    process = with_plugins("train", *small, "method=lora", *WORDS, "run.name=r", cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder / "runs/r"


def test_its_run_is_used_like_any_other(run: Path, with_plugins: Any) -> None:
    assert '"ce": ' in (run / "metrics.jsonl").read_text()
    config = (run / "config.yaml").read_text()
    assert "epsilon: 0.5" in config
    trained = load_file(run / "adapter/visual.safetensors")
    assert trained.keys() == {"ln_post.weight", "ln_post.bias"}
    measured = with_plugins("evaluate", "runs/r", cwd=run.parents[1])
    assert measured.returncode == 0, measured.stderr
    predicted = with_plugins("predict", "runs/r", str(run / "nowhere.jpg"), cwd=run.parents[1])
    assert "nowhere.jpg" in predicted.stderr
    assert "loss" not in predicted.stderr
    exported = with_plugins(
        "export", "runs/r", "--format", "torch", "--output", "x", cwd=run.parents[1]
    )
    assert exported.returncode == 1
    assert exported.stderr == (
        "flowertune export: Mlp: not a linear head, which every format requires\n"
    )


def test_its_config_composes_again(run: Path, with_plugins: Any, tmp_path: Path) -> None:
    words = ("--config-path", str(run), "--cfg", "job")
    again = with_plugins("train", *words, "loss.epsilon=0.25", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "epsilon: 0.25" in again.stdout
    assert "solver: means" in again.stdout
    wrong = with_plugins("train", *words, "loss.epsilon=a", cwd=tmp_path)
    assert "loss.epsilon=a: must be a number, at least -1" in wrong.stderr


def test_without_the_package_a_line_names_what_is_missing(run: Path, flowertune: Any) -> None:
    for words in (("predict", "runs/r", "x.jpg"), ("evaluate", "runs/r"), ("report", "runs/r")):
        process = flowertune(*words, cwd=run.parents[1])
        assert process.returncode == 2
        assert process.stderr == (
            f"flowertune {words[0]}: model=last_norm: comes from a plug-in that is not installed; "
            "install its package\n"
        )
    process = flowertune("train", "--config-path", str(run), cwd=run.parents[1])
    assert process.returncode == 2
    assert process.stderr == "flowertune train: loss=poly: unknown loss\n"
