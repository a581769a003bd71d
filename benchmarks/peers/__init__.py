"""The same training with flowertune and with its alternatives; see bench_peers.py."""
