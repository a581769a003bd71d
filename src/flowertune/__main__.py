"""`python -m flowertune`: the same as the console script."""

import sys

from flowertune.cli import main

if __name__ == "__main__":
    sys.exit(main())
