"""Flow-matching families behind one denoiser: a family is a row of a table, and all else is shared."""
