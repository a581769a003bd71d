"""Frozen features: computed once, found again only where they would be the same."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from flowertune.baselines.features import feature_key, frozen_features
from flowertune.errors import TrainingError
from flowertune.models.backbone import Backbone
from flowertune.runtime.device import Compute

KEY = {
    "weights_sha256": "ab12",
    "activation": "quickgelu",
    "split_fingerprint": "cd34",
    "preprocessing": "8x8 bicubic",
    "precision": "fp32",
    "device": "cpu test",
    "batch_size": 4,
}


class TenPhotos:
    def __init__(self) -> None:
        draws = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(256, (10, 3, 8, 8), generator=draws, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self.pixels[each] for each in indices)


class Encoder:
    """A frozen projection that counts the photos it has seen."""

    def __init__(self) -> None:
        self.weight = torch.randn(192, 5, generator=torch.Generator().manual_seed(1))
        self.weight.requires_grad_()
        self.batches: list[int] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        self.batches.append(len(pixels))
        return pixels.float().flatten(1) @ self.weight


def features_of(
    encode: Callable[[Tensor], Tensor], folder: Path, key: dict[str, Any] = KEY
) -> tuple[Tensor, list[tuple[int, int]]]:
    steps: list[tuple[int, int]] = []
    features = frozen_features(
        TenPhotos(), encode, key, folder, lambda done, total: steps.append((done, total))
    )
    return features, steps


def cached_file(folder: Path) -> Path:
    (path,) = (folder / "features").glob("*/features.safetensors")
    return path


def test_features_are_those_of_the_encoder_and_the_second_time_they_are_found(
    tmp_path: Path,
) -> None:
    encode = Encoder()
    first, steps = features_of(encode, tmp_path)
    assert encode.batches == [4, 4, 2]
    assert steps == [(4, 10), (8, 10), (10, 10)]
    torch.testing.assert_close(
        first, TenPhotos().pixels.float().flatten(1) @ encode.weight.detach()
    )

    again, steps = features_of(encode, tmp_path)
    assert encode.batches == [4, 4, 2]
    assert steps == []
    assert torch.equal(again, first)
    assert cached_file(tmp_path).is_file()  # and nothing temporary beside it


@pytest.mark.parametrize("cached", [False, True])
def test_a_head_may_be_trained_on_them(tmp_path: Path, cached: bool) -> None:
    for _ in range(1 + cached):
        features, _ = features_of(Encoder(), tmp_path)
    assert not features.requires_grad
    head = torch.nn.Linear(5, 2)
    head(features).sum().backward()
    assert head.weight.grad is not None


def test_half_precision_embeddings_are_kept_as_float32(tmp_path: Path) -> None:
    def encode(pixels: Tensor) -> Tensor:
        return Encoder()(pixels).bfloat16()

    computed, _ = features_of(encode, tmp_path)
    found, _ = features_of(encode, tmp_path)
    assert computed.dtype == found.dtype == torch.float32
    assert torch.equal(computed, found)


@pytest.mark.parametrize("field", KEY)
def test_other_circumstances_are_computed_anew(tmp_path: Path, field: str) -> None:
    encode = Encoder()
    features_of(encode, tmp_path)
    other = KEY | {field: KEY[field] + (1 if field == "batch_size" else "x")}
    before = len(encode.batches)
    features_of(encode, tmp_path, other)
    assert len(encode.batches) > before


def test_another_number_of_threads_is_another_machine(small: Backbone) -> None:
    split, compute = SimpleNamespace(sha256=["ab", "cd"]), Compute(torch.device("cpu"), "fp32", 1)
    threads = torch.get_num_threads()
    one, same = (feature_key(small, split, compute, 4) for _ in range(2))
    try:
        torch.set_num_threads(threads + 1)
        other = feature_key(small, split, compute, 4)
    finally:
        torch.set_num_threads(threads)
    assert one == same == {**other, "threads": threads}
    assert one != other
    assert one.keys() >= KEY.keys()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-40] + bytes(40),  # blocks that never reached the disk
        lambda content: b"not safetensors at all",
    ],
)
def test_a_damaged_file_is_reported_and_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    encode = Encoder()
    first, _ = features_of(encode, tmp_path)
    path = cached_file(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        again, _ = features_of(encode, tmp_path)
    assert torch.equal(again, first)
    assert str(path.parent) in caplog.text
    assert encode.batches == [4, 4, 2] * 2

    features_of(encode, tmp_path)
    assert encode.batches == [4, 4, 2] * 2


def test_a_cache_that_cannot_be_written_is_reported_and_the_features_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "features").write_text("a file where the folder belongs")
    with caplog.at_level(logging.WARNING):
        features, _ = features_of(Encoder(), tmp_path)
    assert features.shape == (10, 5)
    assert "could not be kept" in caplog.text


def test_embeddings_that_are_not_finite_end_in_a_message_and_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"trainer\.precision=fp32"):
        features_of(lambda pixels: pixels.flatten(1).float() / 0, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_of_two_that_want_the_same_features_one_computes_them(tmp_path: Path) -> None:
    first, second = Encoder(), Encoder()
    begun, waited = threading.Event(), threading.Event()

    def slow(pixels: Tensor) -> Tensor:
        begun.set()
        assert waited.wait(30)
        return first(pixels)

    with ThreadPoolExecutor() as pool:
        one = pool.submit(features_of, slow, tmp_path)
        assert begun.wait(30)
        other = pool.submit(features_of, second, tmp_path)
        done, _ = wait([other], timeout=0.3)
        assert not done
        waited.set()
        assert torch.equal(one.result()[0], other.result()[0])
    assert second.batches == []
