"""`leco demo`: train on the built-in model, then measure and show what the LoRA does."""
