"""Pocket models of two layers: what is asked of them has nothing to do with quality, and they take half of the time."""

from __future__ import annotations

from typing import Any

from accel import pocket

LAYERS = 2


def load(name: str = "video") -> Any:
    """Like `pocket.load`, for the models that make clips; their files, numbers of steps and arguments are the same."""
    pipe = pocket.load(name)
    del pipe.transformer.blocks[LAYERS:]
    pipe.transformer.register_to_config(num_layers=LAYERS)
    return pipe
