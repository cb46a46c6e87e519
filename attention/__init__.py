"""Sparse spatial-temporal and low-precision attention."""
