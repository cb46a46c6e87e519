"""The layers of a U-Net, in the order in which its skip connections pair them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from accel import conventions, families
from accel.components import original

Paths = tuple[str, ...]


@dataclass(frozen=True)
class UNetLayers:
    """Paths of the modules below the U-Net, in the order in which they run.

    skips[i] are the modules that make the i-th skip connection, and the i-th up layer from the end receives it: the
    number of both is the same. middle: what stands between them.
    """

    skips: tuple[Paths, ...]
    middle: Paths
    ups: tuple[Paths, ...]


def unet_layers(denoiser: torch.nn.Module) -> UNetLayers | None:
    """The layers of a U-Net made of blocks that are known to work alike, else None."""
    downs, ups = getattr(denoiser, "down_blocks", None), getattr(denoiser, "up_blocks", None)
    if not isinstance(downs, torch.nn.ModuleList) or not isinstance(ups, torch.nn.ModuleList):
        return None
    known = families.of_denoiser(type(denoiser).__name__).unet_blocks
    kinds = {type(original(block)).__name__ for block in (*downs, *ups)}
    if not known or not kinds <= set(known):
        return None
    skips: list[Paths] = [("conv_in",)]
    for index, block in enumerate(downs):
        skips += _layers(block, f"down_blocks.{index}")
        skips += [(path,) for path in _listed(block, f"down_blocks.{index}", "downsamplers")]
    up_layers = [layer for index, block in enumerate(ups) for layer in _layers(block, f"up_blocks.{index}")]
    middle = ("mid_block",) if isinstance(getattr(denoiser, "mid_block", None), torch.nn.Module) else ()
    return UNetLayers(tuple(skips), middle, tuple(up_layers)) if len(skips) == len(up_layers) else None


def _layers(block: torch.nn.Module, path: str) -> Iterator[Paths]:
    """Each layer is a residual network and what follows it: attention, motion module."""
    parts = (_listed(block, path, name) for name in conventions.UNET_LAYER)
    yield from zip(*(paths for paths in parts if paths), strict=True)


def _listed(block: torch.nn.Module, path: str, name: str) -> list[str]:
    modules = getattr(block, name, None)
    return [f"{path}.{name}.{index}" for index in range(len(modules))] if modules is not None else []
