"""What is counted and timed, against formulas by hand."""

import sys
from pathlib import Path

import pytest
import torch

from flowertune.benchmark import timing
from flowertune.errors import TrainingError
from flowertune.models.adapters.lora_linear import _updated_linear
from flowertune.models.backbone import TINY, load_directory
from flowertune.models.kernels import linear
from flowertune.models.vision_tower import embed
from flowertune.runtime.device import Compute

CPU = torch.device("cpu")


@pytest.fixture
def two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MIN_CALLS", 2)
    monkeypatch.setattr(timing, "MAX_CALLS", 2)


def test_operations_of_a_forward_pass_are_those_of_the_formula() -> None:
    batch, layers, width, tokens, embedding = 3, 4, 128, 1 + 8 * 8, 128
    patches = 2 * 8 * 8 * width * (3 * 8 * 8)
    one_token = 2 * (2 * width * width + 2 * tokens * width + 2 * width * (4 * width))
    keys_and_values = tokens * 2 * 2 * width * width
    blocks = (layers * tokens - (tokens - 1)) * one_token + layers * keys_and_values
    by_hand = patches + blocks + 2 * width * embedding  # of the last block, the class token alone

    visual = load_directory(TINY, text=False).visual
    with torch.no_grad():
        counted = timing.count_operations(lambda: embed(visual, torch.zeros(batch, 3, 64, 64)))
    assert counted == batch * by_hand


def test_operations_of_our_lora_layer_count_forward_and_backward() -> None:
    rows, into, out, rank = 7, 10, 6, 3
    x = torch.randn(rows, into, requires_grad=True)
    w, bias = torch.randn(out, into), torch.randn(out)
    a = torch.randn(rank, into, requires_grad=True)
    b = torch.randn(out, rank, requires_grad=True)
    join, full = 2 * out * rank * into, 2 * rows * out * into
    thin = 2 * rows * rank * (into + out)  # of A's gradient; B's has as many

    counted = timing.count_operations(
        lambda: _updated_linear(x, w, bias, a, b, 0.5).sum().backward()
    )
    assert counted == (join + full) + (join + full) + 2 * thin


@pytest.mark.parametrize("by_onednn", [True, False])
def test_operations_of_a_step_of_linear_layers_are_three_forward_passes(
    by_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    for module in (linear, timing):
        monkeypatch.setattr(module, "mkl_lacks_avx512", lambda: by_onednn)
    layer, x = linear.Linear(8, 5), torch.randn(4, 8, requires_grad=True)
    assert timing.count_operations(lambda: layer(x).sum().backward()) == 3 * 2 * 4 * 8 * 5


@pytest.mark.usefixtures("two_calls")
def test_the_first_calls_do_not_count() -> None:
    calls: list[None] = []
    (measured,) = timing.timeit([lambda: calls.append(None)], CPU, 8)
    assert len(calls) == timing.WARM_UP + 2
    assert len(measured.seconds) == 2


def test_a_rate_is_that_of_the_median() -> None:
    measured = timing.Timing((4.0, 1.0, 2.0), 10).to_dict()
    assert measured["seconds"] == {"median": 2.0, "least": 1.0, "most": 4.0}
    assert (measured["photos"], measured["photos_per_second"]) == (10, 5.0)
    assert "photos" not in timing.Timing((1.0,), None).to_dict()


@pytest.mark.usefixtures("two_calls")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_matrix_product_has_a_rate(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timing.MATRIX_SIDE, "cpu", 64)
    assert 0 < timing.matrix_rate(Compute(CPU, precision, threads=1)) < float("inf")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_rises_by_what_is_used() -> None:
    before = timing.peak_memory(CPU)["bytes"]
    held = torch.ones((before + 2**26) // 4)  # more than there ever was
    assert timing.peak_memory(CPU)["bytes"] - before >= 2**26
    assert len(held)


@pytest.mark.usefixtures("two_calls")
def test_pieces_that_are_compared_are_called_in_turn() -> None:
    calls: list[str] = []
    both = timing.timeit([lambda: calls.append("a"), lambda: calls.append("b")], CPU, 8)
    assert calls == ["a", "b"] * (timing.WARM_UP + 2)
    assert [len(one.seconds) for one in both] == [2, 2]


def test_a_process_is_timed_to_its_line(tmp_path: Path) -> None:
    program = "print('before'); print('now', flush=True); import time; time.sleep(0.01)"
    seconds = timing.seconds_to_line([sys.executable, "-c", program], "now", tmp_path / "log")
    assert seconds > 0


def test_a_process_that_fails_first_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="ended before it: ValueError: no such thing"):
        timing.seconds_to_line(
            [sys.executable, "-c", "raise ValueError('no such thing')"], "now", tmp_path / "log"
        )
