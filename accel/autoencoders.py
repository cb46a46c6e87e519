"""The autoencoders of the pocket models, by the name under which saved pipelines find them.

diffusers imports no module because a model's folder names it, only those that the program has imported already. This
one comes with `import accel`, and costs nothing until it is asked for a class:

    import accel
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("where a pocket pipeline was saved")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("accel.pocket.autoencoder"), name)
