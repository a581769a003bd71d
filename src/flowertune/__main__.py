"""Entry point of `python -m flowertune`."""

import sys

from flowertune.cli import main

if __name__ == "__main__":
    sys.exit(main())
