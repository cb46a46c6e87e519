"""A second pipeline object over the same weights, so that two threads may each call their own at once."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from typing import Any

import torch

from accel.components import components_of, decoders_of, guiders_of, schedulers_of
from accel.device import device_of
from accel.few_numbers import address
from accel.patch import Wrapper, is_graph, other_method


def pipeline_beside(pipe: Any) -> Any:
    """Another object of the pipeline's class, with its settings and its modules.

    What holds weights or reads text is the same object in both. Schedulers and guiders, which count steps, are copies,
    and so are pipelines within a pipeline, over the same modules again. Costs no memory to speak of.
    """
    return _beside(pipe, {})


def _beside(pipe: Any, made: dict[int, Any]) -> Any:
    if id(pipe) in made:
        return made[id(pipe)]
    other = made[id(pipe)] = copy.copy(pipe)
    for name, value in vars(pipe).items():
        vars(other)[name] = _own(value, pipe, other, made)
    return other


def _own(value: Any, pipe: Any, other: Any, made: dict[int, Any]) -> Any:
    """What the other pipeline has in place of an attribute of the first."""
    if isinstance(value, torch.nn.Module):
        return value
    if isinstance(value, types.MethodType) and value.__self__ is pipe:  # somebody has put it on the object
        return types.MethodType(value.__func__, other)
    if isinstance(getattr(value, "components", None), Mapping) and callable(value):
        return _beside(value, made)
    part = {"": value}
    if any(schedulers_of(part)) or any(guiders_of(part)):
        return copy.deepcopy(value, made)
    return copy.copy(value) if isinstance(value, (dict, list, set)) else value


def why_in_turn(pipe: Any) -> str:
    """Why two jobs of this pipeline must not be on their way at once, as a clause; "" where they may."""
    components = components_of(pipe)
    if (kind := device_of(pipe).type) != "cpu":
        return f"this was made for the CPU, and on one device of kind {kind} both would wait for each other anyway"
    if not any(decoders_of(components)):
        return "the pipeline has no decoder that is known"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "several processes compute this model together and must do so in one order"
    if _in_a_mode():
        return "it was called under a mode of torch (autocast, inference mode, another device), which is one thread's"
    for name, part in components.items():
        for module in part.modules() if isinstance(part, torch.nn.Module) else ():
            if is_graph(module):
                return f"the {name} is compiled"
            if other_method(module, "forward") is not None or "_hf_hook" in vars(module):
                return f"the {name} is offloaded or another library stands around its layers"
    return ""


def _in_a_mode() -> bool:
    modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    return bool(modes) or torch.is_autocast_enabled("cpu") or torch.is_inference_mode_enabled()


class SharedState:
    """What the modules of a pipeline are at one moment: the attributes of each, and where and of what type its numbers
    are. What accel itself has put on them does not count, and neither do the attributes of decoders.
    """

    def __init__(self, components: Mapping[str, Any]) -> None:
        self._modules: dict[torch.nn.Module, dict[str, Any]] = {}
        self._numbers: list[Any] = []
        decoders = dict(decoders_of(components))
        for name, part in components.items():
            if not isinstance(part, torch.nn.Module):
                continue
            for module in part.modules() if name not in decoders else ():
                self._modules[module] = _attributes(module)
            self._numbers += [(address(one), one.dtype, one.device) for one in part.parameters()]

    def same(self, other: SharedState) -> bool:
        """Whether nothing of it has changed."""
        if self._numbers != other._numbers or self._modules.keys() != other._modules.keys():
            return False
        return all(_same(attributes, other._modules[module]) for module, attributes in self._modules.items())


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    found = dict(vars(module))  # at one moment: another job's session may put its layers on or take them off
    return {name: value for name, value in found.items() if not (isinstance(value, Wrapper) or name == _HOOKS)}


_HOOKS = "_diffusers_hook"  # an empty registry comes with the first call; hooks in it would be in place of `forward`


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one.keys() != other.keys():
        return False
    return all(value is other[name] or (_is_plain(value) and value == other[name]) for name, value in one.items())


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, torch.dtype))
