"""``python -m leco_plugin``."""

import sys

from leco_plugin.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
