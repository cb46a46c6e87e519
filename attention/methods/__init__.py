"""The attention techniques: one in each file."""
