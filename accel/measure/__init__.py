"""Runs recipes against each other on one pipeline, and shows what came of it: tables, pictures, a page."""
