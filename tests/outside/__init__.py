"""Techniques as others would write them: one file each, which the package does not know."""
