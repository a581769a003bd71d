"""A page on this machine to try a run's model on: what it takes a photo for, and why."""
