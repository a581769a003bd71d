"""A small open_clip model, runs without training, real photos, a full disk."""

import os

# What a person has set for their own work must not reach the tests, nor the processes they start;
# before the imports, as libraries read it then.
SETTINGS = (
    "FLOWERTUNE_", "HF_", "HUGGING", "HYDRA_", "KMP_", "LC_", "MKL_", "MLFLOW_", "OMP_",
    "TRANSFORMERS_", "WANDB_", "XDG_",
    "CLICOLOR", "COLUMNS", "FORCE_COLOR", "LANG", "LINES", "NO_COLOR",
)  # fmt: skip
for _name in [name for name in os.environ if name.startswith(SETTINGS)]:
    if _name != "FLOWERTUNE_SHARED":  # where real photos are, see CONTRIBUTING.md
        del os.environ[_name]
os.environ["OMP_NUM_THREADS"] = "1"  # one test a core: pytest -n auto

# Shapes in signatures are checked in tests, and in tests alone; before these modules are imported.
from jaxtyping import install_import_hook

SHAPED = (
    "baselines.linear_probe", "baselines.solvers", "baselines.zero_shot",
    "data.device_pixels", "data.factory", "data.loader", "data.samplers", "data.transforms",
    "inference.logits", "losses", "training.batches", "training.cuda_graph", "training.loop",
    "training.pipeline", "training.report_data", "training.setup",
    "training.state", "training.step",
)  # fmt: skip
install_import_hook([f"flowertune.{name}" for name in SHAPED], "beartype.beartype")

import errno
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flowertune.commands import compose as commands_compose
from flowertune.config.schema import Config
from flowertune.errors import UsageError
from flowertune.models.backbone import Backbone, load_directory
from flowertune.runs import resume
from flowertune.runs.directory import Run
from flowertune.runtime import memory
from flowertune.training import setup

pytest_plugins = ["browser", "report_inputs", "trained_runs"]  # of tests/fixtures

SMALL_VIT = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "layers": 3,
        "width": 64,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.fixture(autouse=True)
def _loggers_speak() -> None:
    """Hydra quietens the loggers that it finds, for every test that comes after."""
    logging.getLogger().setLevel(logging.WARNING)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


def _roughen(model: nn.Module) -> None:
    """Weights as if trained: no bias left at zero, no norm at one; exact in float16."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * parameter.std(correction=0).clamp_min(0.1) * noise)
            parameter.copy_(parameter.half())
        for name, buffer in model.named_buffers():
            if not name.endswith("attn_mask"):
                buffer.copy_(buffer.half() if buffer.is_floating_point() else buffer)
    model.eval()


def _write(folder: Path, model_cfg: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    _roughen(model)
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def shared_folder() -> Callable[[str], Path]:
    """`shared_folder("data/flowers17")`: real photos or weights, or the test is skipped."""
    place = Path(os.environ.get("FLOWERTUNE_SHARED", Path(__file__).parents[2] / "shared"))

    def shared_folder(name: str) -> Path:
        if not (place / name).is_dir():
            pytest.skip(f"there is no {place / name} (FLOWERTUNE_SHARED names the place)")
        return place / name

    return shared_folder


@pytest.fixture(scope="session")
def refusal() -> Callable[[Callable[[], object]], str]:
    """`refusal(call)`: the one line with which the call is refused."""

    def refusal(call: Callable[[], object]) -> str:
        with pytest.raises(UsageError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refusal


@pytest.fixture
def rehearsing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A rehearsal leaves this process as it is, and its photos in a folder of the test's own."""
    monkeypatch.setenv("FLOWERTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "make_deterministic", lambda enabled, device: None)
    monkeypatch.setattr(memory, "keep_freed", lambda: True)


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`fill_disk()`: from here on no file of ours reaches the disk any more."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", full)


@pytest.fixture(scope="session")
def roughen() -> Callable[[nn.Module], None]:
    return _roughen


@pytest.fixture(scope="session")
def write_open_clip() -> Callable[[Path, dict[str, Any]], Path]:
    """`write_open_clip(folder, model_cfg)`: an open_clip directory with rough random weights."""
    return _write


@pytest.fixture(scope="session")
def small_config() -> dict[str, Any]:
    return SMALL_VIT


@pytest.fixture(scope="session")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("weights") / "small-vit", SMALL_VIT)


@pytest.fixture
def small(small_dir: Path) -> Backbone:
    return load_directory(small_dir, text=True)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def _compose(*words: str) -> Config:
    found: list[Config] = []
    assert commands_compose.run(words, lambda config: found.append(config) or 0) == 0
    (config,) = found
    return config


@pytest.fixture(scope="session")
def compose() -> Callable[..., Config]:
    """`compose(words...)`: the config of the run that these words ask for."""
    return _compose


@pytest.fixture(scope="session")
def config() -> Config:
    """A config to claim a run's directory with; its run is called `first`."""
    return _compose("method=mixup", "experiment=quickstart", "run.name=first")


def _finished(root: Path, config: Config, name: str = "first") -> Run:
    run, _ = resume.find_run(root, name, asdict(config))
    run.create(asdict(config), {"python": "3"})
    run.write_results({"run": name})
    return run


@pytest.fixture(scope="session")
def finished() -> Callable[..., Run]:
    """`finished(root, config, name="first")`: the least that makes a run a finished one."""
    return _finished


def _finish(
    config: Config, val: float | None = 0.5, test: float | None = 0.5, probe: float = 0.4
) -> int:
    """A run as a training leaves it for tables, with these accuracies; nothing is trained."""
    assert config.run.name is not None
    run, finished = resume.find_run(Path(config.run.root), config.run.name, asdict(config))
    if finished:
        return 0

    def splits(**top1: float | None) -> dict[str, Any]:
        return {
            name: {"n": 100, "top1": one, "top1_interval": [one - 0.1, one + 0.1],
                   "mean_per_class": one / 2}
            for name, one in top1.items() if one is not None
        }  # fmt: skip

    with resume.open_run(run, asdict(config), {}):
        for name, top1 in (("val", val), ("test", test)):
            if top1 is not None:
                answers = ["rose"] * round(100 * top1) + ["daisy"] * round(100 - 100 * top1)
                rows = [[f"{number}.jpg", "rose", word, 1.0] for number, word in enumerate(answers)]
                header = ["path", "label", "prediction", "probability"]
                run.write_table(f"predictions-{name}.csv", header, rows)
        run.write_results(
            {
                "run": run.path.name,
                "method": config.method,
                "model": config.model.name,
                "seed": config.seed,
                "backbone": config.backbone.name,
                "tag": config.backbone.tag,
                "weights_sha256": "w",
                "data_fingerprint": "d",
                "protocol": f"photos of data.seed={config.data.seed}",
                "device": "cpu",
                "precision": "fp32",
                "trainable_parameters": 1234,
                "best_epoch": 2,
                "epochs_run": 3,
                "seconds": 1.5,
                "splits": splits(val=val, test=test),
                "baselines": {
                    "zeroshot": None,
                    "linear_probe": {
                        "trainable_parameters": 12,
                        "splits": splits(val=val and probe, test=test and probe),
                    },
                },
            }
        )
    return 0


@pytest.fixture(scope="session")
def finish() -> Callable[..., int]:
    """`finish(config, val=..., test=..., probe=...)` in place of a training."""
    return _finish
