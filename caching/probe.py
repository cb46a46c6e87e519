"""Listens inside the denoiser: at one module, or at what its first blocks make of the image tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from accel.caching import parallel
from accel.caching.signal import Probe
from accel.call import tensors
from accel.components import submodule
from accel.patch import is_graph, listening


def obstacle(denoiser: torch.nn.Module, probe: Probe) -> str | None:
    """Why nothing can be heard there: no such module, or it is part of a compiled graph, which cannot be left."""
    if is_graph(denoiser):
        return f"the probe {probe.path} lies inside a compiled denoiser: compile its blocks instead"
    for path in (probe.path, *probe.entries):
        if submodule(denoiser, path) is None:
            return f"there is no module {path} to probe"
        for outer in _above(path):
            module = submodule(denoiser, outer)
            if module is not None and is_graph(module):
                return f"the probe {path} lies inside the compiled {outer}: use a cache that probes whole blocks"
    return None


@contextmanager
def hearing(denoiser: torch.nn.Module, probe: Probe, hear: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Passes to `hear` what there is at the probe, whenever the denoiser comes by; ask `obstacle` before."""
    with ExitStack() as stack:
        if probe.part != "blocks":
            stack.enter_context(listening(_at(denoiser, probe.path), probe.part, hear))
        else:
            entered: dict[str, torch.Tensor] = {}
            for path in probe.entries:
                stack.enter_context(listening(_at(denoiser, path), "input", _keeper(entered, path)))

            def leaving(output: Any) -> None:
                parts = parallel.parts_here(denoiser, entered.values())
                found = image_tokens(output, probe.element, [*entered.values(), *parts])
                if found is not None:
                    hear(torch.stack(found))

            stack.enter_context(listening(_at(denoiser, probe.path), "result", leaving))
        yield


def image_tokens(output: Any, element: int, entered: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The image tokens as they entered and as a block returned them, (B, N, D) each, or None where they are not found.

    Of a tuple the element of that number is taken, where it has the shape of what entered, else the first that has.
    """
    found = tensors(output)
    if isinstance(output, (tuple, list)) and len(output) > element and isinstance(output[element], torch.Tensor):
        found.insert(0, output[element])
    pairs = ((entry, tensor.detach()) for tensor in found for entry in entered if tensor.shape == entry.shape)
    return next(pairs, None)


def _keeper(entered: dict[str, torch.Tensor], path: str) -> Callable[[torch.Tensor], None]:
    def keep(value: torch.Tensor) -> None:
        entered[path] = value.detach().clone()  # a copy, because a block may add to its input in place

    return keep


def _at(denoiser: torch.nn.Module, path: str) -> torch.nn.Module:
    module = submodule(denoiser, path)
    assert module is not None  # `obstacle` has been asked
    return module


def _above(path: str) -> list[str]:
    """The paths of the modules that this one is part of, from the outermost."""
    names = path.split(".")
    return [".".join(names[:length]) for length in range(1, len(names))]
