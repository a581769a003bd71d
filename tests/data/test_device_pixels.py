"""Which photos make a batch, and where their pixels come from."""

import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from flowertune.data import device_pixels
from flowertune.data.cache import decode
from flowertune.data.device_pixels import DevicePixels, are_resident
from flowertune.data.samplers import epoch_batches


def test_an_epoch_visits_every_photo_once_in_an_order_of_its_own():
    (order,) = epoch_batches(100, 100, seed=42, epoch=0)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))
    torch.manual_seed(7)
    assert torch.equal(order, epoch_batches(100, 100, seed=42, epoch=0)[0])
    assert not torch.equal(order, epoch_batches(100, 100, seed=42, epoch=1)[0])
    assert not torch.equal(order, epoch_batches(100, 100, seed=43, epoch=0)[0])


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 32, [3]), (5, 1, [1, 1, 1, 1, 1])],
)
def test_batches_are_the_order_cut_into_pieces(count, batch_size, sizes):
    pieces = epoch_batches(count, batch_size, seed=1, epoch=2)
    assert [len(piece) for piece in pieces] == sizes
    assert torch.equal(torch.cat(pieces), epoch_batches(count, count, seed=1, epoch=2)[0])


@pytest.fixture
def pixels(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (9, 3, 5, 7), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", values)
    return values, tmp_path / "pixels.npy"


def gather(store, indices):
    (batch,) = store.batches([indices])
    return batch


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("mode", ["r", "c"])
def test_gathering_from_a_memory_map_equals_indexing_and_says_nothing(pixels, mode, resident):
    values, path = pixels
    mapped = np.load(path, mmap_mode=mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = DevicePixels(mapped, torch.device("cpu"), resident=resident)
        indices = torch.tensor([8, 0, 3, 3])
        batch = gather(store, indices)
    assert len(store) == 9
    assert batch.dtype == torch.uint8
    assert np.array_equal(batch.numpy(), values[[8, 0, 3, 3]])
    batch.zero_()
    assert np.array_equal(gather(store, indices).numpy(), values[[8, 0, 3, 3]])


@pytest.mark.parametrize("resident", [True, False])
def test_photos_of_which_a_part_is_taken_are_those_of_the_batch(pixels, resident):
    values, path = pixels
    store = DevicePixels(np.load(path, mmap_mode="r"), torch.device("cpu"), resident=resident)
    wanted = [torch.tensor([8, 0, 3, 3]), torch.tensor([1])]
    for indices, photos in zip(wanted, store.views(wanted), strict=True):
        assert len(photos) == len(indices)
        for place, photo in zip(indices.tolist(), photos, strict=True):
            assert np.array_equal(photo.numpy(), values[place])


def test_on_the_cpu_photos_of_which_a_part_is_taken_are_not_copied(pixels):
    values, _ = pixels
    store = DevicePixels(values, torch.device("cpu"), resident=True)
    (photos,) = store.views([torch.tensor([4, 2])])
    assert all(np.shares_memory(photo.numpy(), values) for photo in photos)


def test_on_the_cpu_the_memory_map_is_used_without_a_copy(pixels):
    _, path = pixels
    mapped = np.load(path, mmap_mode="r")
    store = DevicePixels(mapped, torch.device("cpu"), resident=True)
    assert store._tensor is not None
    assert store._tensor.data_ptr() == mapped.ctypes.data


def test_another_device_holds_what_fits_in_half_of_its_free_memory(monkeypatch):
    meta, cpu = torch.device("meta"), torch.device("cpu")
    monkeypatch.setattr(device_pixels, "free_memory", lambda device: 20)
    assert are_resident("auto", 10, meta) is True
    assert are_resident("auto", 11, meta) is False
    assert are_resident("device", 11, meta) is True
    assert are_resident("stream", 1, meta) is False
    assert [are_resident(word, 11, cpu) for word in ("auto", "device", "stream")] == [
        True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_gathered_onto_another_device(pixels, resident):
    """On torch's "meta" device, which has shapes and no memory."""
    store = DevicePixels(pixels[0], torch.device("meta"), resident=resident)
    batch = gather(store, torch.tensor([1, 2]))
    assert batch.device.type == "meta"
    assert batch.shape == (2, 3, 5, 7)


def test_streamed_batches_come_in_order_and_are_read_a_few_ahead(pixels):
    values, _ = pixels
    store = DevicePixels(values, torch.device("cpu"), resident=False)
    asked = []

    def order():
        for photo in (5, 1, 8, 0, 2, 7, 3):
            asked.append(photo)
            yield torch.tensor([photo])

    stream = store.batches(order())
    assert not asked
    got = [next(stream)]
    assert len(asked) == device_pixels.READ_AHEAD + 1
    got += stream
    for batch, photo in zip(got, asked, strict=True):
        assert np.array_equal(batch[0], values[photo])
    assert asked == [5, 1, 8, 0, 2, 7, 3]


def test_a_stream_that_nobody_reads_to_its_end_leaves_no_thread(pixels):
    stream = DevicePixels(pixels[0], torch.device("cpu"), resident=False).batches(
        [torch.tensor([photo]) for photo in range(9)]
    )
    next(stream)
    assert any(thread.name.startswith("photos") for thread in threading.enumerate())
    stream.close()
    assert not any(thread.name.startswith("photos") for thread in threading.enumerate())


def test_a_stream_that_is_closed_reads_no_more_than_what_is_being_read(pixels, monkeypatch):
    """The second read goes on until the third, which waits for the thread, is given up."""
    store = DevicePixels(pixels[0], torch.device("cpu"), resident=False)
    read, reads, submitted = store._gather, [], []

    class Watched(ThreadPoolExecutor):
        def submit(self, *call):
            submitted.append(super().submit(*call))
            return submitted[-1]

    def slow(indices):
        reads.append(indices.tolist())
        until = time.monotonic() + 5
        while len(reads) == 2 and time.monotonic() < until and not submitted[2].cancelled():
            time.sleep(0.001)
        return read(indices)

    monkeypatch.setattr(decode, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(store, "_gather", slow)
    stream = store.batches([torch.tensor([photo]) for photo in range(9)])
    next(stream)
    while len(reads) < 2:
        time.sleep(0.001)
    stream.close()
    assert reads == [[0], [1]]


@pytest.mark.parametrize("photo", [9, -1])
def test_an_error_of_the_reading_thread_reaches_the_reader(pixels, photo):
    store = DevicePixels(pixels[0], torch.device("cpu"), resident=False)
    with pytest.raises(IndexError):
        gather(store, torch.tensor([0, photo]))


def test_a_streamed_batch_is_copied_once(pixels):
    """NumPy reports what it allocates; the batch itself is torch's."""
    store = DevicePixels(np.load(pixels[1], mmap_mode="r"), torch.device("cpu"), resident=False)
    indices = torch.arange(9).repeat(100)
    store._gather(indices)
    tracemalloc.start()
    batch = store._gather(indices)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < batch.nbytes / 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [True, False])
def test_gathering_on_a_gpu_equals_indexing(pixels, resident):
    values, path = pixels
    store = DevicePixels(np.load(path, mmap_mode="r"), torch.device("cuda"), resident=resident)
    batch = gather(store, torch.tensor([8, 0, 3, 3]))
    assert batch.device.type == "cuda"
    assert np.array_equal(batch.cpu().numpy(), values[[8, 0, 3, 3]])
