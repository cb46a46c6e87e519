"""LoRA weights on a pipeline for a while, and the pipeline as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class LoraError(ValueError):
    """These weights cannot be used with this pipeline."""


def parse_lora(text: str) -> dict[str, Any]:
    """ "style.safetensors" or "style.safetensors:0.8", as a line of a manifest has it."""
    path, colon, scale = text.rpartition(":")
    try:
        return {"weights": path, "scale": float(scale)} if colon else {"weights": text, "scale": 1.0}
    except ValueError:
        return {"weights": text, "scale": 1.0}


@contextmanager
def lora_weights(pipe: Any, loras: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """The weights in these files ({"weights": path, "scale": number}) on top of those of the pipeline, for the block.

    Adapters that the pipeline has of its own stay beside them, at the scales that they have, and are as they were
    afterwards. Attach a session inside of the block. Raises LoraError for a pipeline that takes no LoRA weights, for a
    file whose weights do not fit it, and where PEFT is missing.
    """
    if not loras:
        yield
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise LoraError(f"{type(pipe).__name__} takes no LoRA weights; leave the field lora out.")
    own = _active(pipe)
    names = [f"accel_{number}" for number in range(len(loras))]
    try:
        for name, lora in zip(names, loras, strict=True):
            _load(pipe, lora["weights"], name)
        pipe.set_adapters([*own, *names], [*own.values(), *(lora.get("scale", 1.0) for lora in loras)])
        yield
    finally:
        _unload(pipe, own, names)


def _load(pipe: Any, path: str, name: str) -> None:
    try:
        pipe.load_lora_weights(path, adapter_name=name, local_files_only=True)
    except Exception as error:  # whatever a file of somebody else's makes of the library
        raise LoraError(f"the LoRA weights {path!r} cannot be loaded into {type(pipe).__name__}: {error}") from error
    if not any(name in adapters for adapters in pipe.get_list_adapters().values()):
        raise LoraError(f"the LoRA weights {path!r} fit no layer of {type(pipe).__name__}.")


def _active(pipe: Any) -> dict[str, float]:
    """The adapters that are on, with the scale of each."""
    found = {}
    for part in pipe.components.values():
        for module in part.modules() if hasattr(part, "modules") else ():
            scaling = getattr(module, "scaling", None)
            if isinstance(scaling, dict) and hasattr(module, "active_adapters"):
                for name in module.active_adapters:
                    if name in scaling:
                        found[name] = scaling[name] * module.r[name] / module.lora_alpha[name]
    return found


def _unload(pipe: Any, own: Mapping[str, float], names: Sequence[str]) -> None:
    known = {name for adapters in pipe.get_list_adapters().values() for name in adapters}
    if known <= set(names):
        pipe.unload_lora_weights()  # and takes the layers away that held them
        return
    pipe.delete_adapters([name for name in names if name in known])
    pipe.set_adapters(list(own), list(own.values()))
