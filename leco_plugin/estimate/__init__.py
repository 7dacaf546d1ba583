"""What a run will need: memory, time, and what makes it fit, by running the real classes without weights."""
