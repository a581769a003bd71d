import pytest
import torch

from flowertune.errors import UsageError
from flowertune.runtime.determinism import make_deterministic
from flowertune.runtime.device import choose_compute


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda", "auto", "device cuda: not available to PyTorch; available: cpu"),
        ("mps", "fp32", "device mps: not available to PyTorch; available: cpu"),
        ("cpu", "fp16", "precision fp16: requires cuda (device: cpu); use fp32"),
        ("auto", "fp16", "precision fp16: requires cuda (device: cpu); use fp32"),
    ],
)
def test_missing_devices_are_refused_in_one_line(device, precision, message):
    with pytest.raises(UsageError) as refusal:
        choose_compute(device, precision)
    assert str(refusal.value) == message


def test_auto_on_a_cpu_is_fp32_without_autocast():
    compute = choose_compute("auto", "auto")
    assert (compute.device.type, compute.precision) == ("cpu", "fp32")
    assert compute.threads == torch.get_num_threads()
    with compute.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bf16_on_a_cpu_autocasts():
    compute = choose_compute("cpu", "bf16")
    with compute.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "precision"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")]
)
def test_auto_uses_the_gpu_and_bf16_if_supported(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    compute = choose_compute("auto", "auto")
    assert (compute.device.type, compute.precision) == ("cuda", precision)
    if precision == "fp32":
        with pytest.raises(UsageError, match=r"bf16: not supported by this cuda device; use fp16"):
            choose_compute("auto", "bf16")


@pytest.mark.parametrize("enabled", [True, False])
def test_deterministic_algorithms_are_switched_on_and_off(monkeypatch, enabled):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        make_deterministic(enabled, torch.device("cpu"))
        assert torch.are_deterministic_algorithms_enabled() == enabled
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
