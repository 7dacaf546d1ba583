"""One LECO step for every host, and the run that the built-in host makes of it."""
