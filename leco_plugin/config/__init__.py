"""What the user asked for, checked: files, prompts and options. Never imports torch."""
