"""What a run will need, from files and arithmetic alone: memory, time, and what makes it fit. Imports no torch."""
