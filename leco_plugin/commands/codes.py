"""Exit codes of every command."""

OK, REFUSED, INTERRUPTED = 0, 2, 130
