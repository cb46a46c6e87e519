"""A denoiser with one of diffusers' caches on it, which can be taken off without a trace."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from accel.calls import Call, Outcome, Proceed, tensors
from accel.patch import Kept

TRACES = ("forward", "_diffusers_hook", "_cache_config")  # what hooks and caches write into a module's attributes


class Hooked:
    """One of diffusers' caches applied to a denoiser.

    Hooks on the denoiser's own forward would stand outside of accel's layer, before it is known which stream calls, so
    they are taken out of there and run by `run`. PAB and FasterCache keep one state per module whatever the context:
    `enter_stream` exchanges it. Raises what diffusers raises where it refuses; the denoiser is then as it was.
    """

    def __init__(self, denoiser: torch.nn.Module, apply: str, config: Any) -> None:
        import diffusers.hooks
        from diffusers.hooks.hooks import StateManager

        self._root = getattr(denoiser, "_orig_mod", denoiser)
        known = getattr(self._root, "_cache_config", None)
        if known is not None:
            raise ValueError(f"{type(known).__name__} is enabled on it already; call disable_cache() first.")
        self._met = self._ran = 0
        self._states: dict[tuple[str, Any], Any] = {}  # by stream and hook
        self._before = [_Before(module) for module in self._root.modules()]
        try:
            getattr(diffusers.hooks, apply)(self._root, config)
            self._hooks = [(before.module, hook) for before in self._before for hook in before.new_hooks().values()]
            if not self._hooks:
                raise ValueError("it names no module of this model.")
        except BaseException:
            self.remove()
            raise
        for before in self._before:
            before.applied()
        self._before[0].traces["_cache_config"].put(config)
        self._before[0].traces["forward"].put_back()
        self._forget_registries()
        values = [value for _, hook in self._hooks for value in vars(hook).values()]
        self._managers = [value for value in values if isinstance(value, StateManager)]
        self._count()

    def run(self, call: Call, proceed: Proceed) -> Outcome:
        """The call through the hooks that belong around the denoiser's own forward."""
        outcomes: list[Outcome] = []

        def plain(*args: Any, **kwargs: Any) -> Any:
            if _shapes(args, kwargs) != _shapes(call.args, call.kwargs):
                self._met += 1  # FasterCache has cut the unconditional half of the batch off
            outcomes.append(proceed(replace(call, args=args, kwargs=kwargs)))
            return outcomes[-1].output

        forward: Callable[..., Any] = plain
        for hook in self._before[0].new_hooks().values():
            forward = functools.partial(_hooked_forward, hook, self._root, forward)
        output = forward(*call.args, **call.kwargs)
        return outcomes[-1]._replace(output=output)

    def enter_stream(self, stream: str) -> None:
        """Gives every hook that keeps a state of its own the one of this stream."""
        for _, hook in self._hooks:
            if hasattr(hook, "state"):
                hook.state = self._states.setdefault((stream, hook), type(hook.state)())

    def in_context(self) -> bool:
        """Whether the pipeline has entered a `cache_context` that says where it is, or no hook asks for one."""
        contexts = [manager._context for manager in self._managers]
        return not contexts or any(context is not None and context.sigma is not None for context in contexts)

    def context(self, name: str, **moment: Any) -> AbstractContextManager[None]:
        """diffusers' `cache_context`, for models that do not have the method too."""
        from diffusers.models.cache_utils import CacheMixin

        entered: AbstractContextManager[None] = CacheMixin.cache_context(self._root, name, **moment)
        return entered

    def counts(self) -> tuple[int, int]:
        """How many hooked modules were skipped, and met, since the last time that this was asked."""
        met, ran, self._met, self._ran = self._met, self._ran, 0, 0
        return met - ran, met

    def reset(self) -> None:
        """Another run begins."""
        self._states.clear()
        self._met = self._ran = 0
        for module, hook in self._hooks:
            if hook._is_stateful:
                hook.reset_state(module)

    def remove(self) -> None:
        """Takes off what was put on; hooks of others, under it or over it, stay."""
        for before in self._before:
            before.restore(root=before.module is self._root)
        self._forget_registries()

    def _count(self) -> None:
        """Counts how often hooked modules are met and how often they run."""
        for module, hook in self._hooks:
            reference = hook.fn_ref
            if module is not self._root and reference.original_forward is not None:
                reference.forward = self._counted(reference.forward, "_met")
                reference.original_forward = self._counted(reference.original_forward, "_ran")

    def _counted(self, forward: Callable[..., Any], counter: str) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            setattr(self, counter, getattr(self, counter) + 1)
            return forward(*args, **kwargs)

        counting.counted = forward  # type: ignore[attr-defined]
        return counting

    def _forget_registries(self) -> None:
        """diffusers keeps a list of the registries below the denoiser, which is out of date now."""
        registry = self._root.__dict__.get("_diffusers_hook")
        if registry is not None:
            registry.invalidate_child_registries_cache()


class _Before:
    """What a module was like before hooks were put on it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.traces = {name: Kept(module, name) for name in TRACES}
        self._known = set(_hooks(module))
        self._forward: Any = None
        self._ours: set[str] | None = None

    def new_hooks(self) -> dict[str, Any]:
        """The hooks that were put on, from the inside out; later ones are somebody else's."""
        ours = self._ours
        return {
            name: hook
            for name, hook in _hooks(self.module).items()
            if (name not in self._known if ours is None else name in ours)
        }

    def applied(self) -> None:
        """All hooks are on: remembers which, and what they made of the module's forward."""
        self._ours = set(self.new_hooks())
        self._forward = self.traces["forward"].now

    def restore(self, root: bool) -> None:
        hooks = self.new_hooks()
        if root and self._ours is not None:
            for name, hook in hooks.items():
                _strike(self.module, name, hook)
        else:
            self._unhook(hooks)
        self.traces["_cache_config"].put_back()
        if not _hooks(self.module):
            self.traces["_diffusers_hook"].put_back()

    def _unhook(self, hooks: dict[str, Any]) -> None:
        forward = self.traces["forward"].now
        for name, hook in hooks.items():
            below = hook.fn_ref.original_forward
            hook.fn_ref.original_forward = getattr(below, "counted", below)
            registry: Any = self.module._diffusers_hook
            registry.remove_hook(name, recurse=False)
        if self._ours is None or forward is self._forward:  # the first if diffusers has refused half-way
            self.traces["forward"].put_back()
        elif hooks:  # somebody has put something on top, which stays and leads through the hooks
            self.traces["forward"].put(forward)
            for hook in hooks.values():
                _pass_through(hook.fn_ref)


def failed_in_hooks(error: Exception) -> bool:
    """Whether the error was raised by a hook of diffusers and not by the model under it."""
    files = [frame.filename.replace("\\", "/") for frame in traceback.extract_tb(error.__traceback__)]
    own = [name for name in files if "/torch/" not in name]
    return bool(own) and "/diffusers/hooks/" in own[-1]


def _shapes(*arguments: Any) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors(arguments)]


def _hooked_forward(hook: Any, module: torch.nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What diffusers' registry does around a module's forward."""
    args, kwargs = hook.pre_forward(module, *args, **kwargs)
    if hasattr(hook, "new_forward"):
        hook.fn_ref.original_forward = forward
        output = hook.new_forward(module, *args, **kwargs)
    else:
        output = forward(*args, **kwargs)
    return hook.post_forward(module, output)


def _strike(module: torch.nn.Module, name: str, hook: Any) -> None:
    """Takes a hook off the registry of a module whose forward it is not in."""
    registry: Any = module._diffusers_hook
    hook.deinitalize_hook(module)
    del registry.hooks[name]
    registry._fn_refs.pop(registry._hook_order.index(name))
    registry._hook_order.remove(name)


def _pass_through(reference: Any) -> None:
    """Makes a hook that somebody's closure still leads to do nothing."""
    reference.pre_forward = lambda _, *args, **kwargs: (args, kwargs)
    reference.post_forward = lambda _, output: output
    if reference.original_forward is not None:
        reference.forward = reference.original_forward


def _hooks(module: torch.nn.Module) -> dict[str, Any]:
    registry = module.__dict__.get("_diffusers_hook")
    return {} if registry is None else {name: registry.hooks[name] for name in registry._hook_order}
