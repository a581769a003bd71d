"""A training made ready for timing is the one that would be trained."""

from collections.abc import Callable

import pytest
import torch

from flowertune.benchmark import setup
from flowertune.config.schema import Config
from flowertune.data import device_pixels, factory
from flowertune.report.console.run import ConsoleReporter


@pytest.mark.usefixtures("rehearsing")
@pytest.mark.parametrize("word", ["auto", "device", "stream"])
@pytest.mark.parametrize("augmentation", ["basic", "none"])
def test_its_pixels_lie_where_all_pixels_of_a_training_would(
    word: str,
    augmentation: str,
    compose: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test photos' too, of which the rehearsal has none; and asked once, for all together."""
    asked = []

    def are_resident(residency: str, total: int, device: torch.device) -> bool:
        asked.append((residency, total))
        return device_pixels.are_resident(residency, total, device)

    monkeypatch.setattr(factory, "are_resident", are_resident)
    config = compose(
        "experiment=quickstart", "method=lora", f"augmentation={augmentation}",
        "trainer.device=cpu", f"data.residency={word}", "data.train_per_class=2",
        "data.val_per_class=1", "data.test_per_class=3",
    )  # fmt: skip
    training = setup.prepare(config, ConsoleReporter())
    train = training.setup.cached.splits["train"]
    total = 20 * (2 + 1 + 3) * 3 * 64 * 64
    if augmentation == "basic":
        assert train.train_pixels is not None
        total += train.train_pixels.array.nbytes
    assert asked == [(word, total)]
    assert training.state.loader.pixels.resident is (word != "stream")
