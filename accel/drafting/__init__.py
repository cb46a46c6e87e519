"""Spending the time that was saved: a cheap look at many seeds, and the chosen one in full."""
