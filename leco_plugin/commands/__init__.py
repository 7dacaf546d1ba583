"""The commands of `leco`, one file each."""
