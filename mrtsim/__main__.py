"""The command `mrtsim` as `python -m mrtsim`, for where the command itself is not on the path."""

import sys

from mrtsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
