"""Finds the parts of a pipeline, by name and by what they do: denoisers, schedulers and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from accel import conventions
from accel.update import config_of


def components_of(pipe: Any) -> dict[str, Any]:
    """The pipeline's named parts, those too that diffusers' `components` leaves out because the constructor would do
    without them (LongCat's scheduler). Raises TypeError for an object that is not a pipeline."""
    components = getattr(pipe, "components", None)
    if isinstance(pipe, type) or not callable(pipe) or not isinstance(components, Mapping):
        what = f"the class {pipe.__name__}" if isinstance(pipe, type) else f"a {type(pipe).__name__}"
        raise TypeError(f"accel.accelerate expects a diffusers pipeline object, such as WanPipeline(...), not {what}.")
    registered = [name for name, value in config_of(pipe).items() if isinstance(value, (tuple, list))]
    optional = {name: getattr(pipe, name, None) for name in registered if name not in components}
    return dict(components) | {name: part for name, part in optional.items() if part is not None}


def denoisers_of(components: Mapping[str, Any]) -> Iterator[tuple[str, torch.nn.Module]]:
    for name in conventions.DENOISERS:
        if isinstance(components.get(name), torch.nn.Module):
            yield name, components[name]


def adapters_of(components: Mapping[str, Any]) -> Iterator[tuple[str, torch.nn.Module]]:
    """What is called in front of the denoiser in each step."""
    for name in conventions.ADAPTERS:
        if isinstance(components.get(name), torch.nn.Module):
            yield name, components[name]


def decoders_of(components: Mapping[str, Any]) -> Iterator[tuple[str, torch.nn.Module]]:
    """What makes pictures or sound of the last latents, as far as it is asked to `decode`."""
    denoisers = dict(denoisers_of(components))
    for name, component in components.items():
        decodes = isinstance(component, torch.nn.Module) and callable(getattr(component, "decode", None))
        if decodes and name not in denoisers:
            yield name, component


def schedulers_of(components: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, component in components.items():
        if hasattr(component, "set_timesteps") and any(hasattr(component, step) for step in conventions.STEPS):
            yield name, component


def guiders_of(components: Mapping[str, Any]) -> Iterator[Any]:
    """The objects that make the calls and combine the outputs of guidance in pipelines that have such (diffusers'
    guiders: HunyuanVideo 1.5, HunyuanImage, modular pipelines)."""
    for component in components.values():
        if hasattr(component, "set_state") and hasattr(component, "prepare_inputs"):
            yield component


def original(module: torch.nn.Module) -> torch.nn.Module:
    """The module that `torch.compile(module)` has wrapped; any other as it is."""
    found: torch.nn.Module = getattr(module, "_orig_mod", module)
    return found


def submodule(root: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """The module at a dotted path, or None."""
    module: Any = root
    for part in path.split("."):
        module = getattr(module, part, None)
    return module if isinstance(module, torch.nn.Module) else None
