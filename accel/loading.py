"""Pipelines by name: the pocket models that ship with the package, and diffusers models by id or folder."""

from __future__ import annotations

import textwrap
from typing import Any

POCKET = "pocket:"


def load_pipeline(model: str, *, dtype: str | None = None, device: str | None = None) -> Any:
    """The pipeline called `model`: "pocket:video" or another pocket model, a local folder, or a model id on the hub.

    `dtype` is a torch type by name ("bfloat16"), `device` a torch device; left out, the model's own type and
    the first accelerator that there is. Raises ValueError, in one sentence, for what cannot be loaded.
    """
    import torch

    element = getattr(torch, dtype, None) if dtype else None
    if dtype and not isinstance(element, torch.dtype):
        raise ValueError(f"dtype must be the name of a torch type such as bfloat16 or float32, not {dtype!r}.")
    pipe = _pocket(model.removeprefix(POCKET)) if model.startswith(POCKET) else _diffusers(model, element)
    if element is not None:
        pipe = pipe.to(dtype=element)
    try:
        return pipe.to(device or best_device())
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the model cannot be moved to {device!r}: {_first_sentence(error)}") from None


def _pocket(name: str) -> Any:
    from accel import pocket

    return pocket.load(name)


def _diffusers(model: str, dtype: Any) -> Any:
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(
            model, use_safetensors=True, **({"torch_dtype": dtype} if dtype else {})
        )
    except Exception as error:  # hub, network, file and configuration errors have no common base
        raise ValueError(
            f"{model!r} cannot be loaded ({_first_sentence(error)}); "
            "give pocket:video, a folder with a diffusers pipeline, or a model id."
        ) from None


def best_device() -> str:
    """The kind of the first accelerator that there is, or "cpu"."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    if accelerator is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return accelerator.type


def _first_sentence(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0].partition(". ")[0].partition(" (")[0]
    return textwrap.shorten(text, 140, placeholder=" …").rstrip(".") or type(error).__name__
