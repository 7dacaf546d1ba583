"""The built-in host: diffusers and PEFT, nothing else installed."""
