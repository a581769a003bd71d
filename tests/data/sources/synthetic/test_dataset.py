"""The built-in flowers: the same everywhere, different where they should be, drawn once."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from flowertune.data.dataset import ImageDataset
from flowertune.data.sources.synthetic import dataset
from flowertune.data.sources.synthetic.scene import Conditions, draw_picture
from flowertune.data.sources.synthetic.species import Attributes
from flowertune.errors import UsageError


def ignore(description: str, done: int, total: int | None) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    root = tmp_path_factory.mktemp("flowers")
    return dataset.list_images(
        root, counts={"train": 2, "val": 1, "test": 3}, seed=0, progress=ignore
    )


def test_flowers_that_were_drawn_before_are_found() -> None:
    """Their folder's name is made of what is drawn, and not of how the code spells it."""
    folder = dataset.dataset_folder(Path("cache"), counts={"train": 4, "val": 2, "test": 2}, seed=0)
    assert folder.name == "29f2080bdbf0bcbb"


def test_counts_labels_and_words(flowers: ImageDataset) -> None:
    assert {name: len(split) for name, split in flowers.splits.items()} == {
        "train": 40,
        "val": 20,
        "test": 60,
    }
    for split in flowers.splits.values():
        assert all(
            path.parent.name == flowers.class_names[label]
            for path, label in zip(split.paths, split.labels, strict=True)
        )
    assert len(set(flowers.class_names)) == len(flowers.class_names) >= 16
    assert flowers.descriptions is not None
    assert len(set(flowers.descriptions)) == len(flowers.class_names)
    assert "train 2, val 1, test 3" in flowers.protocol


def test_a_split_of_none_is_absent(tmp_path: Path) -> None:
    flowers = dataset.list_images(
        tmp_path, counts={"train": 1, "val": 1, "test": 0}, seed=0, progress=ignore
    )
    assert set(flowers.splits) == {"train", "val"}


def test_every_picture_is_another_one(flowers: ImageDataset) -> None:
    paths = [path for split in flowers.splits.values() for path in split.paths]
    pixels = {Image.open(path).tobytes() for path in paths}
    assert len(pixels) == len(paths)
    assert {Image.open(path).size for path in paths} == {(64, 64)}
    assert {Image.open(path).mode for path in paths} == {"RGB"}


def test_more_pictures_keep_the_first_ones_and_another_seed_none(
    flowers: ImageDataset, tmp_path: Path
) -> None:
    more = dataset.list_images(
        tmp_path, counts={"train": 3, "val": 1, "test": 1}, seed=0, progress=ignore
    )
    other = dataset.list_images(
        tmp_path, counts={"train": 2, "val": 1, "test": 1}, seed=1, progress=ignore
    )
    assert len({flowers.root.name, more.root.name, other.root.name}) == 3
    for path in flowers.splits["train"].paths:
        place = path.relative_to(flowers.root)
        assert path.read_bytes() == (more.root / place).read_bytes()
        assert path.read_bytes() != (other.root / place).read_bytes()


def test_pixels_come_from_the_arguments_alone(flowers: ImageDataset) -> None:
    np.random.seed(1)  # global state must not matter
    species = flowers.class_names[7]
    again = dataset.picture(0, "test", species, 2)
    drawn = np.asarray(Image.open(flowers.root / "test" / species / "0002.png"))
    assert np.array_equal(again, drawn)


def test_a_second_call_draws_nothing(flowers: ImageDataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in flowers.splits["test"].paths}
    again = dataset.list_images(
        flowers.root.parent,
        counts={"train": 2, "val": 1, "test": 3},
        seed=0,
        progress=ignore,
    )
    assert again == flowers
    assert before == {path: path.stat().st_mtime_ns for path in again.splits["test"].paths}


def test_an_interrupted_drawing_leaves_no_half_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = 0

    def full_disk(
        attributes: Attributes, conditions: Conditions, rng: np.random.Generator
    ) -> np.ndarray:
        nonlocal drawn
        drawn += 1
        if drawn > 10:
            raise OSError("No space left on device")
        return draw_picture(attributes, conditions, rng)

    counts: dict[str, Any] = {"counts": {"train": 1, "val": 1, "test": 1}}
    counts |= {"seed": 0, "progress": ignore}
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "draw_picture", full_disk)
        with pytest.raises(UsageError, match="No space"):
            dataset.list_images(tmp_path, **counts)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    flowers = dataset.list_images(tmp_path, **counts)
    assert all(path.is_file() for split in flowers.splits.values() for path in split.paths)


def contents(flowers: ImageDataset) -> dict[Path, bytes]:
    return {path: path.read_bytes() for split in flowers.splits.values() for path in split.paths}


def flip(flowers: ImageDataset) -> None:
    picture = flowers.splits["train"].paths[3]
    data = bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 1
    picture.write_bytes(data)


def cut(flowers: ImageDataset) -> None:
    picture = flowers.splits["train"].paths[3]
    picture.write_bytes(picture.read_bytes()[:500])


def lose(flowers: ImageDataset) -> None:
    flowers.splits["train"].paths[3].unlink()


def doubt(flowers: ImageDataset) -> None:
    """A checksum, where the picture is whole."""
    file = flowers.root / "meta.json"
    file.write_text(file.read_text().replace('0001.png": ', '0001.png": 1', 1))


def lose_the_checksums(flowers: ImageDataset) -> None:
    (flowers.root / "meta.json").unlink()


@pytest.mark.parametrize("damage", [flip, cut, lose, doubt, lose_the_checksums])
def test_a_damaged_set_is_drawn_anew(
    tmp_path: Path, damage: Callable[[ImageDataset], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SPECIES", dict(list(dataset.SPECIES.items())[:3]))
    counts = {"train": 2, "val": 0, "test": 0}
    flowers = dataset.list_images(tmp_path, counts=counts, seed=0, progress=ignore)
    before, meta = contents(flowers), (flowers.root / "meta.json").read_text()
    damage(flowers)
    said: list[str] = []
    again = dataset.list_images(
        tmp_path, counts=counts, seed=0, progress=lambda text, *_: said.append(text)
    )
    assert said == ["drawing flowers"] * 6
    assert again == flowers
    assert contents(again) == before
    assert (flowers.root / "meta.json").read_text() == meta


def test_who_waits_for_another_process_says_so(tmp_path: Path) -> None:
    flowers = dataset.list_images(
        tmp_path, counts={"train": 1, "val": 0, "test": 0}, seed=0, progress=ignore
    )
    flowers.splits["train"].paths[0].unlink()
    other = FileLock(tmp_path / f"{flowers.root.name}.lock")
    other.acquire()
    said: list[str] = []

    def progress(description: str, done: int, total: int | None) -> None:
        said.append(description)
        other.release()

    dataset.list_images(
        tmp_path, counts={"train": 1, "val": 0, "test": 0}, seed=0, progress=progress
    )
    assert said[0] == "waiting for another process that draws the flowers"


def test_too_little_space_is_said_before_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil._ntuple_diskusage(10**9, 10**9 - 10**5, 10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(UsageError, match=rf"takes 983.0 kB in {tmp_path}.*FLOWERTUNE_CACHE"):
        dataset.list_images(
            tmp_path, counts={"train": 2, "val": 1, "test": 1}, seed=0, progress=ignore
        )
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_two_processes_at_once_see_the_same_complete_set(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from flowertune.data.sources.synthetic import dataset\n"
        "flowers = dataset.list_images(pathlib.Path(sys.argv[1]),\n"
        "    counts={'train': 3, 'val': 1, 'test': 1}, seed=5, progress=lambda *_: None)\n"
        "print(sum(path.stat().st_size for s in flowers.splits.values() for path in s.paths))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sizes = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sizes[0] == sizes[1] != ""
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
