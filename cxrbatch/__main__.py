"""`python -m cxrbatch`, the same as the command `cxrbatch`."""

import sys

from cxrbatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
