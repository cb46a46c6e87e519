"""Pipelines by name: the pocket models that ship with the package, and diffusers models by id or folder."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from accel.conventions import DENOISERS

POCKET = "pocket:"


def load_pipeline(model: str, *, dtype: str | None = None, device: str | None = None) -> Any:
    """The pipeline called `model`: "pocket:video" or another pocket model, a local folder, or a model id on the hub.

    `dtype` is a torch type by name ("bfloat16"), `device` a torch device; left out, the type in which the model's
    denoiser was saved and the first accelerator that there is. All parts get the same type. Only weights in safetensors
    files are loaded, because other files can hold programs. Raises ValueError, in one sentence, for what cannot be
    loaded.
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
    """Left to themselves, diffusers loads its parts in float32 and transformers its own as they were saved, and a model
    in float16 comes apart at the seam.
    """
    from diffusers import DiffusionPipeline

    import_module("accel.pocket.autoencoder")  # diffusers takes classes from modules that are loaded already
    try:
        if dtype is None:
            folder = model if Path(model).is_dir() else DiffusionPipeline.download(model, use_safetensors=True)
            dtype = saved_dtype(Path(folder))
        return DiffusionPipeline.from_pretrained(model, dtype=dtype, use_safetensors=True)
    except Exception as error:  # hub, network, file and configuration errors have no common base
        if not Path(model).is_dir() and (model.startswith((".", "/", "~")) or "/" not in model):
            raise ValueError(
                f"there is no folder {model!r}; give pocket:video, a folder with a diffusers pipeline, or a model id "
                "with its owner, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
            ) from None
        raise ValueError(
            f"{model!r} cannot be loaded ({_first_sentence(error)}); "
            "give pocket:video, a folder with a diffusers pipeline, or a model id."
        ) from None


def saved_dtype(folder: Path) -> Any:
    """The torch type of most numbers of a saved pipeline's denoiser, or of all its parts where it has none that is
    known; float32 where they are of no type that a pipeline can compute in. Reads the heads of the files only.
    """
    import torch

    known = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    parts = [folder / name for name in DENOISERS if (folder / name).is_dir()] or sorted(folder.glob("*/"))
    counts: Counter[str] = Counter()
    for part in parts:
        for kind, numbers in _tensors(part):
            counts[kind] += numbers
    most = max(counts, key=counts.__getitem__, default="F32")
    return known.get(most, torch.float32)


def _tensors(part: Path) -> Iterator[tuple[str, int]]:
    """The type and the count of numbers of each tensor, in the files that diffusers loads unless a variant is named."""
    from safetensors import safe_open

    for path in sorted(part.glob("*.safetensors")):
        if "." in path.stem:  # diffusion_pytorch_model.fp16.safetensors
            continue
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                tensor = file.get_slice(name)
                yield tensor.get_dtype(), math.prod(tensor.get_shape())


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
