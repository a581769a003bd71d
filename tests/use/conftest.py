"""A finished run of each kind of model, small, trained once for all of these tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from flowertune.commands import evaluate, predict, train
from flowertune.config.schema import Config
from flowertune.runtime import memory

SMALL = (
    "experiment=quickstart", "data.train_per_class=2", "data.val_per_class=1",
    "data.test_per_class=2", "trainer.epochs=1", "trainer.batch_size=20",
    "optimizer.lr=0.01", "baselines=false", "run.report=false", "run.console=quiet",
)  # fmt: skip
KINDS = {
    "lora": ("method=mixup",),
    "some_lora": (
        "method=lora", "model.rank_stabilized=true", "model.targets=[q,mlp]", "model.layers=[1,3]",
        "head=text",
    ),
    "vpt": ("method=vpt",),
    "vpt_deep": ("method=vpt_deep", "head=cosine", "trainer.precision=bf16"),
    "full": ("method=full", "data.protocol=trainval", "probe.weight_decay=0.01"),
    "linear_probe": ("method=linear_probe",),
    "zeroshot": ("method=zeroshot",),
}  # fmt: skip


def _as_it_is(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Commands leave this process as it is, and their photos in the tests' own folder."""
    patch.setenv("FLOWERTUNE_CACHE", str(cache))
    patch.setattr(memory, "keep_freed", lambda: True)
    for command in (train, evaluate, predict):
        patch.setattr(command, "make_deterministic", lambda enabled, device: None)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of this session."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "use"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _quiet_commands(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _as_it_is(monkeypatch, place / "cache")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of model there is."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def run_of(place: Path, compose: Callable[..., Config]) -> Iterator[Callable[[str], Path]]:
    """`run_of("lora")`: the directory of a finished run of that kind; not for changing."""

    def run_of(name: str) -> Path:
        run = place / "runs" / name
        with FileLock(place / "training.lock"), torch.enable_grad():  # whoever asks
            if not (run / "results.json").exists():
                words = (*SMALL, *KINDS[name], f"run.root={run.parent}", f"run.name={name}")
                assert train.execute(compose(*words)) == 0
        return run

    with pytest.MonkeyPatch.context() as patch:
        _as_it_is(patch, place / "cache")
        yield run_of


@pytest.fixture(scope="session")
def lora(run_of: Callable[[str], Path]) -> Path:
    return run_of("lora")


@pytest.fixture(scope="session")
def drawn(lora: Path, place: Path) -> Path:
    """The folder with the photos that these runs were made of: train/, val/ and test/."""
    (folder,) = (path for path in (place / "cache/synthetic").iterdir() if path.is_dir())
    return folder
