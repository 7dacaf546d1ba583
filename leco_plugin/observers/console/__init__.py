"""What a run looks like on the terminal; the only place that imports rich."""
