"""Commands on finished LoRA files, and on prompts before training: measured with the model, not guessed."""
