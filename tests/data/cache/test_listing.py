"""What is listed of a cache folder, and what is removed."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
import torch

from flowertune.baselines.features import frozen_features
from flowertune.data.cache.dataset import CachedDataset
from flowertune.data.cache.listing import CacheEntry, delete, list_entries
from flowertune.data.cache_dir import write_meta
from flowertune.data.sources.synthetic import dataset
from flowertune.files import bytes_in

KEY = {"weights_sha256": "c0ffee" * 8, "precision": "fp32", "device": "cpu", "batch_size": 4}


class _Pixels:
    def __len__(self) -> int:
        return 6

    def batches(self, indices):
        return (torch.zeros(len(each), 3) for each in indices)


def features(folder: Path) -> None:
    frozen_features(_Pixels(), lambda batch: batch, KEY, folder, lambda *_: None)


def flowers(folder: Path) -> None:
    dataset.list_images(
        folder / "synthetic", counts={"train": 1, "val": 1, "test": 0}, seed=0,
        progress=lambda *_: None,
    )  # fmt: skip


@pytest.fixture
def filled(
    tmp_path: Path,
    root: Path,
    cached: Callable[..., CachedDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A cache with everything: photos of two splits, features, drawn flowers, a download."""
    monkeypatch.setattr(dataset, "SPECIES", dict(list(dataset.SPECIES.items())[:2]))
    folder = tmp_path / "cache"
    cached(root, folder)
    features(folder)
    flowers(folder)
    (folder / "flowers102" / "jpg").mkdir(parents=True)
    (folder / "flowers102" / "jpg" / "image_00001.jpg").write_bytes(b"123")
    (folder / "flowers102" / "setid.mat").write_bytes(b"4567")
    names = ["jpg", "jpg.building", "setid.mat", "../escaped"]
    write_meta(folder / "flowers102", "Flowers-102, as published", names=names)
    return folder


def by_kind(folder: Path) -> dict[str, list[CacheEntry]]:
    kinds: dict[str, list[CacheEntry]] = {}
    for each in list_entries(folder):
        kinds.setdefault(each.kind, []).append(each)
    return kinds


def files_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name != ".lock"
    }


def test_everything_is_listed_with_what_it_is_of_and_its_size(filled: Path, root: Path) -> None:
    kinds = by_kind(filled)
    assert {each.description for each in kinds["photos"]} == {
        f"train of {root / 'train'}: 10 photos",
        f"val of {root / 'val'}: 2 photos",
    }
    (kept,) = kinds["features"]
    assert kept.description == "6 x 3, fp32 on cpu, weights c0ffeec0"
    (kept,) = kinds["drawn flowers"]
    assert kept.description == "train 2, val 2"
    (kept,) = kinds["download"]
    assert kept.description == "Flowers-102, as published"
    assert {path.name for path in kept.paths} == {"jpg", "setid.mat", "meta.json"}
    sizes = [(filled / name).stat().st_size for name in files_in(filled)]
    assert sum(each.bytes for each in list_entries(filled)) == sum(sizes)
    assert list_entries(filled / "nowhere") == []


def test_to_use_something_makes_it_the_last_used(
    filled: Path, root: Path, cached: Callable[..., CachedDataset]
) -> None:
    for each in list_entries(filled):
        os.utime(each.paths[0], (1000, 1000))
    assert [each.last_used for each in list_entries(filled)][:4] == [1000] * 4
    began = time.time() - 1
    cached(root, filled)
    features(filled)
    used = {
        kind: [each.last_used > began for each in kept] for kind, kept in by_kind(filled).items()
    }
    assert (used["photos"], used["features"]) == ([True, True], [True])
    assert used["drawn flowers"] == [False]


def test_all_that_is_listed_is_removed_and_nothing_else(filled: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "photo.jpg").touch()
    others = {
        "notes.txt", "pixels/README", "pixels/0123/eval.u8", "features/mine.safetensors",
        "synthetic/mine/0.png", "flowers102/mine.txt",
    }  # fmt: skip
    for name in others:
        (filled / name).parent.mkdir(exist_ok=True)
        (filled / name).touch()
    (filled / "pixels" / ("0" * 32)).symlink_to(elsewhere)
    (filled / "pixels" / ("1" * 32 + ".building")).mkdir()
    listed = list_entries(filled)
    assert [each.description for each in listed].count("half made, or being made now") == 1
    assert [delete(each) for each in listed] == [None] * 6
    assert list_entries(filled) == []
    assert files_in(filled) == others
    assert (elsewhere / "photo.jpg").exists()


def test_what_another_process_builds_is_left(filled: Path) -> None:
    listed = list_entries(filled)
    assert len(listed) == 5
    before = files_in(filled)
    for each in listed:
        with filelock.FileLock(each.lock):
            assert delete(each) == "another process is building it"
    assert files_in(filled) == before


def test_a_removal_that_is_cut_short_leaves_nothing_that_is_taken_for_whole(
    filled: Path,
    root: Path,
    cached: Callable[..., CachedDataset],
    decoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut_short(path: Path, ignore_errors: bool = False) -> None:
        if path.is_dir():
            next(each for each in path.rglob("*") if each.is_file()).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", cut_short)
        for each in list_entries(filled):
            with pytest.raises(KeyboardInterrupt):
                delete(each)
    assert not (filled / "flowers102" / "jpg").exists()
    for kind in ("photos", "features", "drawn flowers"):
        assert {each.description for each in by_kind(filled)[kind]} == {
            "half made, or being made now"
        }
    cached(root, filled)
    flowers(filled)
    assert len(decoded) == 12
    assert by_kind(filled)["drawn flowers"][0].description == "train 2, val 2"


def test_what_cannot_be_read_is_listed_as_damaged(filled: Path) -> None:
    for name in files_in(filled):
        if name.endswith("meta.json"):
            (filled / name).write_bytes(b"{")
    assert [each.description for each in list_entries(filled)] == ["damaged"] * 5
    assert [delete(each) for each in list_entries(filled)] == [None] * 5


def test_the_size_of_a_folder_does_not_count_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"0" * 100_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "small").write_bytes(b"123")
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "large")
    assert bytes_in(tmp_path / "folder") < 1000
