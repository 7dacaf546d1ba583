"""The arithmetic of LECO: tensors and numbers in, tensors out. Knows no config, file, host or console."""
