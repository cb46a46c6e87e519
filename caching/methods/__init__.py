"""The caches: one technique in each file."""
