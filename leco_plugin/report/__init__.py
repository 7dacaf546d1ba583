"""What a LoRA looks like: `leco preview` draws strips, `leco report` puts a run on one page."""
