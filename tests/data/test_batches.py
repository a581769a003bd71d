"""Which photos make a batch, and where their pixels come from."""

import warnings

import numpy as np
import pytest
import torch

from flowertune.data import batches
from flowertune.data.batches import PixelStore, epoch_batches, epoch_order


def test_an_epoch_visits_every_photo_once_in_an_order_of_its_own():
    order = epoch_order(100, seed=42, epoch=0)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))
    torch.manual_seed(7)
    assert torch.equal(order, epoch_order(100, seed=42, epoch=0))
    assert not torch.equal(order, epoch_order(100, seed=42, epoch=1))
    assert not torch.equal(order, epoch_order(100, seed=43, epoch=0))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 32, [3]), (5, 1, [1, 1, 1, 1, 1])],
)
def test_batches_are_the_order_cut_into_pieces(count, batch_size, sizes):
    pieces = epoch_batches(count, batch_size, seed=1, epoch=2)
    assert [len(piece) for piece in pieces] == sizes
    assert torch.equal(torch.cat(pieces), epoch_order(count, seed=1, epoch=2))


@pytest.fixture
def pixels(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (9, 3, 5, 7), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", values)
    return values, tmp_path / "pixels.npy"


@pytest.mark.parametrize("mode", ["r", "c"])
def test_gathering_from_a_memory_map_equals_indexing_and_says_nothing(pixels, mode):
    values, path = pixels
    mapped = np.load(path, mmap_mode=mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = PixelStore(mapped, torch.device("cpu"))
        indices = torch.tensor([8, 0, 3, 3])
        batch = store.gather(indices)
    assert len(store) == 9
    assert batch.dtype == torch.uint8
    assert np.array_equal(batch.numpy(), values[[8, 0, 3, 3]])
    batch.zero_()
    assert np.array_equal(store.gather(indices).numpy(), values[[8, 0, 3, 3]])


def test_on_the_cpu_the_memory_map_is_used_without_a_copy(pixels):
    _, path = pixels
    mapped = np.load(path, mmap_mode="r")
    store = PixelStore(mapped, torch.device("cpu"))
    assert store.resident
    assert store._pixels.data_ptr() == mapped.ctypes.data


@pytest.mark.parametrize("resident", [True, False])
def test_another_device_holds_what_fits_in_half_of_its_memory(pixels, resident, monkeypatch):
    """On torch's "meta" device, which has shapes and no memory."""
    values, _ = pixels
    free = 2 * values.nbytes if resident else 2 * values.nbytes - 1
    monkeypatch.setattr(batches, "free_memory", lambda device: free)
    store = PixelStore(values, torch.device("meta"))
    assert store.resident is resident
    assert store._pixels.device.type == ("meta" if resident else "cpu")
    batch = store.gather(torch.tensor([1, 2]))
    assert batch.device.type == "meta"
    assert batch.shape == (2, 3, 5, 7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [True, False])
def test_gathering_on_a_gpu_equals_indexing(pixels, resident, monkeypatch):
    values, path = pixels
    if not resident:
        monkeypatch.setattr(batches, "free_memory", lambda device: 0)
    store = PixelStore(np.load(path, mmap_mode="r"), torch.device("cuda"))
    assert store.resident is resident
    batch = store.gather(torch.tensor([8, 0, 3, 3]))
    assert batch.device.type == "cuda"
    assert np.array_equal(batch.cpu().numpy(), values[[8, 0, 3, 3]])
