"""`flowertune reproduce`: every method with every seed, and the table of what they reached.

reproduction_composition.py decides the jobs, report/reproduction.py makes the table.
"""

from flowertune.commands import train
from flowertune.config import Config


def execute(config: Config) -> int:
    """One of its trainings, as `flowertune train` does it. Returns and raises what that does."""
    return train.execute(config)
