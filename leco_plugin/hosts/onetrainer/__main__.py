"""`python -m leco_plugin.hosts.onetrainer`: the same as `leco host run onetrainer`."""

import sys

from leco_plugin.errors import LecoError
from leco_plugin.streams import write_lines

if __name__ == "__main__":
    from leco_plugin.hosts.onetrainer.launcher import run

    try:
        sys.exit(run(sys.argv[1:]))
    except LecoError as error:
        write_lines(sys.stderr, map(str, error.problems))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
