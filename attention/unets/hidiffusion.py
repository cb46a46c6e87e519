"""HiDiffusion: U-Nets above the size that they were trained on, faster and without repeated objects."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.attention.lever import AttentionLever
from accel.attention.planner import Planner, SparseAttention
from accel.attention.unets.high_resolution import GAINS_FROM, known_unets, unknown
from accel.attention.unets.rau_net import RauNet
from accel.attention.unets.window_attention import WindowPlanner
from accel.lever import CompositeLever, InactiveLever, Lever
from accel.method import setting


@dataclass(frozen=True)
class HiDiffusion(SparseAttention):
    """Windows in the self-attentions of the highest resolution, and a U-Net that shrinks features once more at first.

    Source: HiDiffusion (ECCV 2024, arXiv 2311.17528), with the modules and thresholds of its code.
    windows (MSW-MSA): self-attention within 2 x 2 windows of the picture, at a quarter of the pairs, moved by 0, 1/4,
    1/2 or 3/4 of a window, drawn from `seed` for each step and module; sides that do not divide give uneven windows
    (the code resizes the features). At every size, in all steps; where it pays, see `min_tokens`.
    rau (RAU-Net): up to T1 a downsampler takes every fourth place (stride 4, dilation 2) or features are averaged in
    twos, and grow again where their skip connections join; up to T2 one more. It is for latents of at least twice the
    area that the U-Net was trained on; below, the report says so. t1, t2: shares of the steps; -1 takes the published
    ones: 0.4 and 0, from 4 times the side 0.7 and 0.3; SDXL halves one level deeper in the first 8/50 of the steps.
    Not a way to the same picture: it differs from the unaccelerated one, and above the trained size is meant to. For
    Stable Diffusion 1.5, 2.1 and SDXL (ControlNet and T2I-Adapter residuals are averaged to size). Memory: a list of
    tokens for each size; activations are smaller.
    """

    windows: bool = True
    rau: bool = True
    t1: float = setting(-1.0, -1.0, 1.0, "share of the steps with features halved once more; -1: published")
    t2: float = setting(-1.0, -1.0, 1.0, "share of the steps with features halved twice more; -1: published")
    seed: int = setting(0, 0, None, "of the moves of the windows")
    _: KW_ONLY
    warmup: float = setting(0.0, 0.0, 1.0, "share of the steps, from the first, without windows")
    dense_layers: int = setting(0, 0, None, "layers, from the first, without windows")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("windows", "rau"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"HiDiffusion.{name} must be True or False, not {getattr(self, name)!r}.")

    def planner(self, anatomy: Anatomy) -> Planner:
        finest = {name: unet.finest for name, unet in known_unets(anatomy).items()}
        return WindowPlanner(finest, self.seed, GAINS_FROM if self.min_tokens < 0 else 0)

    def build(self, anatomy: Anatomy) -> Lever:
        unets = known_unets(anatomy)
        if not unets:
            return InactiveLever(self, unknown("HiDiffusion", anatomy))
        parts: list[Lever] = [RauNet(str(self), unets, self.t1, self.t2)] if self.rau else []
        if self.windows:
            parts.append(AttentionLever(self, anatomy))
        return (
            CompositeLever(self, parts)
            if parts
            else InactiveLever(self, "windows and rau are both off: switch one of them on")
        )
