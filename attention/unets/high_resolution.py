"""Which U-Nets are known to take HiDiffusion and token merging, and what of them it concerns."""

from __future__ import annotations

import math
from typing import NamedTuple

from accel.anatomy import Anatomy, DenoiserAnatomy
from accel.unet_layers import UNetLayers

# Tokens from which windows and merging gain in these U-Nets, whose heads are few at this resolution. CPU, one thread,
# one head of 64: at 576 tokens a step takes 1.08 times as long as a dense one, at 1024 as long, at 1600 it is 1.1 times
# and at 4096 1.5 times as fast.
GAINS_FROM = 1600
INPAINTING_CHANNELS = 9


class HighResolution(NamedTuple):
    """A known U-Net."""

    layers: UNetLayers
    finest: tuple[str, ...]  # beginnings of the paths of its self-attentions of the highest resolution
    halved: tuple[str, str]  # modules after which features can be halved, until T1 and until T2
    native: float  # side of the square latents that it was trained on
    early: float  # share of the steps in which the second of `halved` stands in for the first
    few_steps: float | None  # T1 of a model distilled for few steps


def known_unets(anatomy: Anatomy) -> dict[str, HighResolution]:
    """The denoisers of a pipeline that are such U-Nets, by name."""
    found = {name: high_resolution(denoiser) for name, denoiser in anatomy.denoisers.items()}
    return {name: unet for name, unet in found.items() if unet is not None}


def high_resolution(denoiser: DenoiserAnatomy) -> HighResolution | None:
    """What is known of a U-Net, or None."""
    config = denoiser.config
    kinds = tuple(config.get("down_block_types") or ())
    facts = next((known for known in denoiser.family.high_resolution if known.down_blocks == kinds), None)
    if facts is None or denoiser.unet is None:
        return None
    ends = {layer[-1] for layer in denoiser.unet.skips}
    if not ends.issuperset(facts.halved) or config.get("downsample_padding", 1) != 1:
        return None
    side = native_side(config.get("sample_size"))
    inpaints = config.get("in_channels") == INPAINTING_CHANNELS
    few_steps = facts.few_steps.get(side)
    early = 0.0 if inpaints or few_steps is not None else facts.early
    return HighResolution(denoiser.unet, facts.finest, facts.halved, side, early, few_steps)


def native_side(size: object) -> float:
    """The side of the square with the area of the latents trained on; 0 where the configuration does not say."""
    if isinstance(size, (list, tuple)):
        return math.sqrt(math.prod(size))
    return float(size) if isinstance(size, (int, float)) else 0.0


def unknown(method: str, anatomy: Anatomy) -> str:
    """Why there is nothing to do, in a sentence."""
    kinds = ", ".join(dict.fromkeys(part.kind for part in anatomy.denoisers.values()))
    return (
        f"{method} is worked out for the U-Nets of Stable Diffusion 1.5, 2.1 and SDXL, whose layers {kinds} does not"
        f" have; TopKBlocks takes any self-attention"
    )
