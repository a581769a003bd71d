"""The same training by flowertune and by what people would use instead; see bench_peers.py."""
