"""Runs recipes against each other on one pipeline, and shows the results: tables, pictures, a page."""
