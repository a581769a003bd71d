import pytest
import torch

from flowertune.training.checkpoint import load_weights, save_weights


def test_weights_come_back_bit_for_bit_in_their_own_types(tmp_path):
    state = {
        "a": torch.randn(3, 4).T,  # not contiguous
        "b": torch.randn(2).half(),
        "c": torch.tensor(7),
        "d": torch.tensor([float("nan"), -0.0]),
    }
    save_weights(tmp_path / "model.safetensors", state)
    loaded = load_weights(tmp_path / "model.safetensors")
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
    assert torch.equal(load_weights(path)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]
