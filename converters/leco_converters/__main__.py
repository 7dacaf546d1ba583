"""`python -m leco_converters`."""

import sys

from leco_converters.command import main

if __name__ == "__main__":
    sys.exit(main())
