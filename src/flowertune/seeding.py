"""Where every random number comes from: (seed, purpose, epoch, step), and nothing else.

No draw depends on an earlier one, on the number of workers, or on global random state that
something else left behind, so any batch of any epoch can be made again on its own.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """A 63-bit seed for one purpose at one moment; unrelated for any two different arguments."""
    text = f"{seed}/{purpose}/{epoch}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> torch.Generator:
    """A CPU generator for one purpose at one moment."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, epoch, step))


@contextmanager
def seeded(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> Iterator[None]:
    """For code that can only draw from torch's global CPU state (layer initialisation).

    The global state is put back afterwards, so that nothing outside notices.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, purpose, epoch, step))
        yield
