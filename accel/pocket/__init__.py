"""Tiny trained models."""
