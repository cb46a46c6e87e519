"""The comparison app."""
