"""Pictures of what a LoRA does."""
