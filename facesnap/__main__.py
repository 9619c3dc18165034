"""`python -m facesnap`, the same as the console script."""

import sys

from facesnap.cli import main

if __name__ == "__main__":
    sys.exit(main())
