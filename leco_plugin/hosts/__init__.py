"""Trainers that LECO runs in; translation only."""
