"""LoRA networks and their files."""
