"""``python -m leco_plugin``."""

import sys

from leco_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
