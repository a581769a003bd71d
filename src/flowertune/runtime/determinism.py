"""Make results bit-identical for the same seed."""

import os

import torch


def make_deterministic(enabled: bool, device: torch.device) -> None:
    """Use deterministic algorithms, or the fastest ones if not `enabled`.

    Some operations have no deterministic form on MPS; there torch warns instead of failing.
    Must run before the first operation on a GPU (https://pytorch.org/docs/stable/notes/randomness.html).
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled, warn_only=device.type == "mps")
    torch.backends.cudnn.benchmark = not enabled
    # No code here reads an empty tensor before writing to it; torch would fill each one first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Set explicitly, the number of threads is fixed. Otherwise MKL may adapt it to the work until
    # the linear probe sets it, and a run would depend on whether baselines were computed.
    torch.set_num_threads(torch.get_num_threads())
