"""Which layers of a denoiser may be computed in fewer bits, and why others may not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from accel.anatomy import Anatomy, DenoiserAnatomy
from accel.patch import is_compiled, reachable

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
UNET_PARTS = ("down_blocks", "mid_block", "up_blocks")
IN_BRANCHES = (".conv1", ".conv2")  # of residual blocks, beside what they pass on as it is

Layer = torch.nn.Linear | torch.nn.Conv2d


@dataclass
class FoundLayers:
    """Of one pipeline: its layers by (denoiser, path), and how many there are that stay out of reach."""

    layers: dict[tuple[str, str], Layer] = field(default_factory=dict)
    # Of feed-forwards the first and last layer, by (denoiser, path): between them is nothing but an activation.
    pairs: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
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
        _collect(found, name, denoiser, _roots(denoiser, known), lambda _, layer: _is_linear(layer))
        if convolutions and known.unet is not None:
            _collect(found, name, denoiser, UNET_PARTS, _is_in_branch)
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
    roots: Iterable[str],
    wanted: Callable[[str, torch.nn.Module], bool],
) -> None:
    for root in roots:
        module = reachable(denoiser, root)
        if module is None or is_compiled(module):
            found.compiled += 1
            continue
        if pair := _pair(module):
            found.pairs[name, f"{root}.{pair[0]}"] = name, f"{root}.{pair[1]}"
        for path, layer in _leaves(module, root):
            if wanted(path, layer) and isinstance(layer, Layer) and is_plain(layer):
                found.layers[name, path] = layer
            elif _is_linear(layer) and not is_plain(layer):
                found.foreign.add(type(layer).__name__)


def _roots(denoiser: torch.nn.Module, known: DenoiserAnatomy) -> Iterator[str]:
    """Paths of what holds such linear layers."""
    yield from (path for paths in known.modules.values() for path in paths)
    for listed, count in known.blocks.items():
        for index in range(count):
            block = reachable(denoiser, f"{listed}.{index}")
            children = dict(block.named_children()) if block is not None else {}
            yield from (f"{listed}.{index}.{child}" for child, layer in children.items() if _is_linear(layer))


def _pair(module: torch.nn.Module) -> tuple[str, str] | None:
    """The first and last layer of a feed-forward as diffusers builds nearly all of them."""
    net = getattr(module, "net", None)
    if not isinstance(net, torch.nn.ModuleList) or len(net) < 2 or not isinstance(net[-1], torch.nn.Linear):
        return None
    between = all(isinstance(part, torch.nn.Dropout) for part in net[1:-1])
    first = dict(net[0].named_children())
    plain = set(first) <= {"proj", "act", "activation"} and isinstance(first.get("proj"), torch.nn.Linear)
    return ("net.0.proj", f"net.{len(net) - 1}") if between and plain else None


def _leaves(module: torch.nn.Module, path: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """The layers below a module that consist of no others, with their paths. Those that an adapter of peft adds are
    left out: they are small, and stay as they are.
    """
    base = getattr(module, "base_layer", None)
    children = {"base_layer": base} if isinstance(base, torch.nn.Module) else dict(module.named_children())
    if not children:
        yield path, module
    for name, child in children.items():
        if not is_compiled(child):
            yield from _leaves(child, f"{path}.{name}")


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(getattr(module, "in_features", None), int)


def _is_in_branch(path: str, module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Conv2d) and path.endswith(IN_BRANCHES)
