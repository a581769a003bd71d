"""Get the same bits from the same seed."""

import os

import torch


def make_deterministic(enabled: bool, device: torch.device) -> None:
    """Use only algorithms that give the same result each time, or else the fastest ones.

    MPS has no deterministic form of some operations: there torch warns instead of failing.
    Must run before the first operation on a GPU (https://pytorch.org/docs/stable/notes/randomness.html).
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled, warn_only=device.type == "mps")
    torch.backends.cudnn.benchmark = not enabled
    # Empty tensors are written before they are read here; torch would fill each one first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Said aloud, the number stays what it is; unsaid, MKL may change it by the size of the work,
    # until the linear probe says it: then a run would depend on whether baselines were computed.
    torch.set_num_threads(torch.get_num_threads())
