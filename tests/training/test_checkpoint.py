"""Weights and checkpoints on the disk: whole, or not there, or seen not to be whole."""

import random
import shutil

import pytest
import torch
from safetensors.torch import load_file

from flowertune import files
from flowertune.models.serialization import save_weights
from flowertune.runs.directory import Run
from flowertune.training.state import STATE, TENSORS, load_checkpoint, save_checkpoint

VALUES = {"progress": {"epoch": 2, "done": 3}, "lines": [{"loss": 0.1 + 0.2, "norm": None}]}


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(20, 30, generator=generator) for name in ("one", "two")}


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    run.best.parent.mkdir(parents=True)
    return run


def test_weights_come_back_bit_for_bit_in_their_own_types(tmp_path):
    state = {
        "a": torch.randn(3, 4).T,  # not contiguous
        "b": torch.randn(2).half(),
        "c": torch.tensor(7),
        "d": torch.tensor([float("nan"), -0.0]),
    }
    save_weights(tmp_path / "model.safetensors", state)
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor) or name == "d"
    assert loaded["d"].signbit()[1]


def test_a_full_disk_leaves_the_weights_of_before(tmp_path, fill_disk):
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.ones(2)})
    fill_disk()
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, {"a": torch.zeros(2)})
    assert torch.equal(load_file(path)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_comes_back_and_two_are_kept(run):
    for step in (1, 2, 3):
        save_checkpoint(run, 0, step, {**VALUES, "step": step}, tensors(step))
    newest, damaged = run.newest_checkpoint()
    assert (newest, damaged) == (run.checkpoint(0, 3), {})
    values, loaded = load_checkpoint(newest)
    assert values == {**VALUES, "step": 3}
    assert all(torch.equal(loaded[name], each) for name, each in tensors(3).items())
    assert run.checkpoints() == [run.checkpoint(0, 3), run.checkpoint(0, 2)]


def test_a_full_disk_keeps_the_checkpoints_and_says_how_much_was_needed_where(run, fill_disk):
    save_checkpoint(run, 0, 1, VALUES, tensors())
    fill_disk()
    with pytest.raises(files.DiskFullError) as full:
        save_checkpoint(run, 0, 2, VALUES, tensors())
    assert full.value.filename == str(run.checkpoint(0, 2))
    written = [run.checkpoint(0, 1) / name for name in (STATE, TENSORS)]
    needed = files.format_bytes(sum(path.stat().st_size for path in written))
    assert f"No space left on device: {needed} needed, " in str(full.value)
    assert [path.name for path in run.checkpoint(0, 1).parent.iterdir()] == [
        run.checkpoint(0, 1).name
    ]
    assert run.newest_checkpoint() == (run.checkpoint(0, 1), {})


def damages():
    """Ways to damage a checkpoint: (name, what it does to the folder)."""
    rng = random.Random(0)

    def flip(path, at):
        data = bytearray(path.read_bytes())
        data[int(at * len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

    def cut(path, at):
        path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])

    def zero(path, at):
        data = path.read_bytes()
        start = int(at * len(data))
        path.write_bytes(data[:start] + bytes(len(data) - start))

    for name in (STATE, TENSORS, files.SUMS):
        for damage in (flip, cut, zero):
            for _ in range(5):
                at = rng.random() * 0.999
                yield (
                    f"{damage.__name__} {name} at {at:.3f}",
                    (lambda folder, damage=damage, name=name, at=at: damage(folder / name, at)),
                )
        yield f"no {name}", lambda folder, name=name: (folder / name).unlink()
        yield f"empty {name}", lambda folder, name=name: (folder / name).write_bytes(b"")
        yield f"a folder {name}", lambda folder, name=name: (
            (folder / name).unlink(), (folder / name).mkdir())  # fmt: skip
        yield f"longer {name}", lambda folder, name=name: (folder / name).write_bytes(
            (folder / name).read_bytes() + b"\n")  # fmt: skip
    yield "one file more", lambda folder: (folder / "more").write_text("x")
    yield "an empty folder", lambda folder: (shutil.rmtree(folder), folder.mkdir())


@pytest.mark.parametrize("damage", [pytest.param(each, id=name) for name, each in damages()])
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_is_taken(run, damage):
    save_checkpoint(run, 0, 1, VALUES, tensors(1))
    save_checkpoint(run, 0, 2, VALUES, tensors(2))
    damage(run.checkpoint(0, 2))
    newest, flaws = run.newest_checkpoint()
    assert newest == run.checkpoint(0, 1)
    assert flaws.keys() == {run.checkpoint(0, 2)}
    assert "\n" not in flaws[run.checkpoint(0, 2)]
    damage(newest)
    assert run.newest_checkpoint()[0] is None
