"""Derive every random number from (seed, purpose, epoch, step) alone.

No draw depends on an earlier one, on the number of workers or on the global random state, so any
batch of any epoch can be reproduced on its own.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """Derive a 63-bit seed for a purpose, epoch and step, independent of all others."""
    text = f"{seed}/{purpose}/{epoch}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> torch.Generator:
    """Create a CPU generator for a purpose, epoch and step."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, epoch, step))


@contextmanager
def seeded(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> Iterator[None]:
    """Seed torch's global CPU generator in the body, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, purpose, epoch, step))
        yield
