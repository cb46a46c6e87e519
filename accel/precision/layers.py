"""Which layers of a denoiser may be computed in fewer bits, and why others may not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from accel.anatomy import Anatomy, DenoiserAnatomy
from accel.patch import is_graph, reachable

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
UNET_PARTS = ("down_blocks", "mid_block", "up_blocks")
FEED_FORWARD = "feed_forward"  # the other kinds of modules of an anatomy are attentions
IN_BRANCHES = (".conv1", ".conv2")  # of residual blocks, beside what they pass on as it is

Layer = torch.nn.Linear | torch.nn.Conv2d


class BlockPart(NamedTuple):
    """An attention or feed-forward all of whose linear layers are plain, with the paths of these."""

    layers: tuple[str, ...]
    is_attention: bool


@dataclass
class FoundLayers:
    """Of one pipeline: its layers by (denoiser, path), and how many there are that stay out of reach."""

    layers: dict[tuple[str, str], Layer] = field(default_factory=dict)
    parts: dict[tuple[str, str], BlockPart] = field(default_factory=dict)
    compiled: int = 0  # parts inside of compiled blocks
    foreign: set[str] = field(default_factory=set)  # kinds of linear layers that are not plainly torch's own


def find_layers(denoisers: Mapping[str, torch.nn.Module], anatomy: Anatomy, *, convolutions: bool) -> FoundLayers:
    """The linear layers of all attentions and feed-forwards, and those that stand in a repeated block by themselves;
    with `convolutions` also those in the branches of a U-Net's residual blocks.

    What embeds the time, the text and the latents, modulates, normalises or makes the output is not among them: it
    costs little, and its errors reach everything. Nor are convolutions that all that a U-Net computes goes through.
    """
    found = FoundLayers()
    for name, denoiser in denoisers.items():
        known = anatomy.denoisers.get(name)
        if known is None:
            continue
        _collect(found, name, denoiser, known, _roots(denoiser, known), lambda _, layer: _is_linear(layer))
        if convolutions and known.unet is not None:
            _collect(found, name, denoiser, known, UNET_PARTS, _is_in_branch)
    return found


def has_layers(anatomy: Anatomy) -> bool:
    """Whether it is known where in these denoisers such layers are."""
    return any(denoiser.modules or denoiser.unet for denoiser in anatomy.denoisers.values())


def is_plain(layer: torch.nn.Module) -> bool:
    """Whether a layer is torch's own and its weights are numbers as they are: not quantised already."""
    weight = getattr(layer, "weight", None)
    own = type(layer) in (torch.nn.Linear, torch.nn.Conv2d) and type(weight) is torch.nn.Parameter
    return own and weight is not None and weight.dtype in FLOATS


def _collect(
    found: FoundLayers,
    name: str,
    denoiser: torch.nn.Module,
    known: DenoiserAnatomy,
    roots: Iterable[str],
    wanted: Callable[[str, torch.nn.Module], bool],
) -> None:
    for root in roots:
        module = reachable(denoiser, root)
        if module is None or is_graph(module):
            found.compiled += 1
            continue
        leaves = dict(_leaves(module, root))
        taken = {
            path: layer
            for path, layer in leaves.items()
            if wanted(path, layer) and isinstance(layer, Layer) and is_plain(layer)
        }
        found.layers |= {(name, path): layer for path, layer in taken.items()}
        foreign = {type(layer).__name__ for layer in leaves.values() if _is_linear(layer) and not is_plain(layer)}
        found.foreign |= foreign
        if taken and not foreign and root not in leaves and root not in UNET_PARTS:
            attention = any(root in paths for kind, paths in known.modules.items() if kind != FEED_FORWARD)
            found.parts[name, root] = BlockPart(tuple(taken), attention)


def _roots(denoiser: torch.nn.Module, known: DenoiserAnatomy) -> Iterator[str]:
    """Paths of what holds such linear layers."""
    yield from (path for paths in known.modules.values() for path in paths)
    for listed, count in known.blocks.items():
        for index in range(count):
            block = reachable(denoiser, f"{listed}.{index}")
            children = dict(block.named_children()) if block is not None else {}
            yield from (f"{listed}.{index}.{child}" for child, layer in children.items() if _is_linear(layer))


def _leaves(module: torch.nn.Module, path: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """The layers below a module that consist of no others, with their paths. Those that an adapter of peft adds are
    left out: they are small, and stay as they are.
    """
    base = getattr(module, "base_layer", None)
    children = {"base_layer": base} if isinstance(base, torch.nn.Module) else dict(module.named_children())
    if not children:
        yield path, module
    for name, child in children.items():
        if not is_graph(child):
            yield from _leaves(child, f"{path}.{name}")


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(getattr(module, "in_features", None), int)


def _is_in_branch(path: str, module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Conv2d) and path.endswith(IN_BRANCHES)
