"""Finds the modules of a live denoiser whose outputs can be reused, and wraps them for a while."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from accel.anatomy import Anatomy
from accel.patch import Wrapper, forward_of, reachable

KINDS = ("self_attention", "temporal_attention", "cross_attention", "feed_forward")


class ModuleSite(NamedTuple):
    """A reusable module by name: the denoiser, the kind of module, and its path below the denoiser."""

    denoiser: str
    kind: str
    path: str


# answer(site, inner, *args, **kwargs): stands in place of the module's forward.
ModuleForward = Callable[..., Any]


def sites(anatomy: Anatomy, kinds: Collection[str]) -> list[ModuleSite]:
    """All modules of these kinds in all denoisers of the pipeline."""
    return [
        ModuleSite(name, kind, path)
        for name, denoiser in anatomy.denoisers.items()
        for kind, paths in denoiser.modules.items()
        if kind in kinds
        for path in paths
    ]


def attach(
    denoisers: Mapping[str, torch.nn.Module], wanted: Collection[ModuleSite], answer: ModuleForward
) -> tuple[list[Wrapper], list[ModuleSite]]:
    """Puts `answer` around every wanted module; returns the layers, and the sites that cannot be reached.

    The caller detaches the layers, in reverse order. A module inside a compiled block is part of that block's graph, so
    it is left alone; a module that is compiled itself is reached in front of its graph.
    """
    layers: list[Wrapper] = []
    missed: list[ModuleSite] = []
    for site in wanted:
        module = reachable(denoisers[site.denoiser], site.path) if site.denoiser in denoisers else None
        if module is None:
            missed.append(site)
            continue
        layers.append(Wrapper(module, forward_of(module), partial(answer, site)))
    return layers, missed
