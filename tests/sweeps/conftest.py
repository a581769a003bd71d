"""Work in a temporary folder, and read the files of a sweep."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _sweep_folder() -> Path:
    (folder,) = (path for path in Path("my runs/sweeps").iterdir() if path.name[0] != ".")
    return folder


def _table(name: str = "sweep.csv") -> list[dict[str, str]]:
    with (_sweep_folder() / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def sweep_folder() -> Callable[[], Path]:
    """`sweep_folder()`: the directory of the only sweep with `run.root=my runs`."""
    return _sweep_folder


@pytest.fixture(scope="session")
def table() -> Callable[..., list[dict[str, str]]]:
    """`table(name="sweep.csv")`: its rows."""
    return _table


@pytest.fixture(scope="session")
def column() -> Callable[[str], list[str]]:
    """`column(name)`: a column of sweep.csv, one value per job."""
    return lambda name: [row[name] for row in _table()]
