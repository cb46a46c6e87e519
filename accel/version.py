"""The version of the package, where it can be read without the rest of it."""

__version__ = "0.1.0"
