"""What pipeline this is, for the identity of jobs that are rendered with a pipeline object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from accel.adapters import adapters, strength
from accel.components import components_of
from accel.few_numbers import few_numbers
from accel.rendering.pipeline_arguments import plain_class
from accel.text_cache import frozen

_SAMPLES = 16
_FREEU = ("s1", "s2", "b1", "b2")  # on the blocks of a U-Net, None where it is off
_OF_PIPELINES = ("_free_init_", "_free_noise_")  # what AnimateDiff's begin with


def fingerprint(pipe: Any) -> str:
    """The class and a hash of configurations and weights, such as "WanPipeline@3f2a90c1d2e4".

    Of each tensor, shape, type and a few values take part: enough to tell models and adapters apart, and fast; so do
    the strengths of adapters, FreeU and FreeInit. Two pipelines with one fingerprint render the same, unless their code
    was changed.
    """
    found = hashlib.sha256()
    for name, part in sorted(components_of(pipe).items()):
        config: Any = getattr(part, "config", None) or {}
        config = config.to_dict() if hasattr(config, "to_dict") else _plain(config)
        # Folders and versions say where and with what it was saved, not what it is.
        plain = {key: value for key, value in config.items() if not key.startswith("_") and "version" not in key}
        found.update(f"{name} {type(part).__name__} {json.dumps(plain, sort_keys=True, default=str)}".encode())
        if isinstance(part, torch.nn.Module):
            for key, tensor in part.state_dict().items():
                if isinstance(tensor, torch.Tensor):
                    found.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
                    found.update(_sample(_offloaded(part, key) if tensor.is_meta else tensor))
            found.update("".join(map(repr, _switches(part))).encode())
    own = {name: value for name, value in vars(pipe).items() if name.startswith(_OF_PIPELINES) and value is not None}
    found.update("".join(f"{name} {own[name]}" for name in sorted(own) if frozen(own[name]) is not None).encode())
    return f"{plain_class(pipe).__name__}@{found.hexdigest()[:12]}"


def _switches(part: torch.nn.Module) -> Iterator[Any]:
    """What is set on a model without being a weight; nothing for most models."""
    yield from map(strength, adapters(part))
    for path, module in part.named_modules():
        values = [vars(module).get(name) for name in _FREEU]
        if any(value is not None for value in values):
            yield path, values


def _sample(tensor: Any) -> bytes:
    if not isinstance(tensor, torch.Tensor):
        return b""
    parts = (part[: _SAMPLES + 1].float().cpu().numpy() for part in few_numbers(tensor, _SAMPLES))
    return b"".join(part.tobytes() for part in parts)


def _offloaded(part: torch.nn.Module, key: str) -> Any:
    """A weight that has no memory in the module itself, where accelerate keeps it for the module's calls; or None."""
    path, _, name = key.rpartition(".")
    hook = getattr(part.get_submodule(path), "_hf_hook", None)
    kept = (getattr(each, "weights_map", None) for each in getattr(hook, "hooks", (hook,)))
    return next((weights[name] for weights in kept if weights is not None and name in weights), None)


def _plain(config: Any) -> dict[str, Any]:
    """Of diffusers it is a mapping; of a component of somebody's own perhaps an object with attributes."""
    return dict(config) if isinstance(config, Mapping) else dict(vars(config))
