"""Samplers for few-step models: distilled so that one output leads from any noise level to the picture, or to the end
of a phase, and not along the path that an ordinary model's outputs describe.

All of them go down to a clean estimate, or to less noise than the next step needs, and add fresh noise on the way back.
How far down is the one thing in which they differ: LCM goes to the picture, TCD and TDD go a part of the way.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from accel.method import setting
from accel.samplers.distillation_grid import Origin
from accel.samplers.sampler import Sampler, Space, StepPlace, UpdateWeights
from accel.samplers.sigmas import Sigmas


@dataclass(frozen=True)
class FewStep(Sampler, lever="sampler", abstract=True):
    """Base of the samplers for distilled models and LoRAs of 1 to 8 steps. Ordinary models give blurred pictures.

    The pipeline is called as the few-step model's card says: few steps, and guidance off or small. The noise levels are
    those of the distillation (`Origin`) where the scheduler can be told them; the report says where it cannot.

    clip: bound for the magnitude of the clean estimate, in the units of the latents; 0 does not clip. Pixel models live
    within 1; latents do not. quantile: below 1 the bound is that quantile of a sample's own magnitudes, if larger, and
    the estimate is scaled back to `clip` (dynamic thresholding, arXiv 2205.11487). clip_steps: so many steps of the
    timetable, where large guidance overshoots, are clipped; later ones would lose contrast.
    """

    _: KW_ONLY
    clip: float = setting(0.0, 0.0, None, "largest magnitude of the clean estimate; 0 does not clip")
    quantile: float = setting(1.0, 0.5, 1.0, "below 1: dynamic thresholding at this quantile of the magnitudes")
    clip_steps: int = setting(1000, 0, 1000, "first steps that are clipped")

    @property
    def space(self) -> Space:
        return "clean"

    @property
    def grid(self) -> Sigmas | None:
        return Origin() if self.sigmas is None else self.sigmas

    def clamp(self, clean: torch.Tensor, step: int) -> torch.Tensor:
        if not self.clip or step >= self.clip_steps:
            return clean
        if self.quantile == 1.0:
            return clean.clamp(-self.clip, self.clip)
        bound = torch.quantile(clean.abs().flatten(1), self.quantile, dim=1).clamp_min(self.clip)
        bound = bound.view(-1, *[1] * (clean.ndim - 1))
        return clean.clamp(-bound, bound) * (self.clip / bound)

    @property
    def adds_noise(self) -> bool:
        return True

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        return self.update(times, following, StepPlace(0, remaining))


@dataclass(frozen=True)
class LCM(FewStep):
    """Multistep consistency sampling (Consistency Models, arXiv 2303.01469, algorithm 1; LCM, arXiv 2310.04378): each
    output goes all the way to the picture, which is noised anew for the next.

    For LCM models and LoRAs, and flow models distilled alike (diffusers' FlowMatchLCMScheduler). The right one where an
    output is right for the whole way to the picture: then every step gives the right distribution, and no error adds
    up. Not for models that were distilled in phases, whose outputs are right for a part of the way. The last step adds
    nothing. LCM's boundary weights c_skip and c_out, which differ from 0 and 1 by less than 1e-5 at the timesteps of
    its grid, are left out. Memory: none.
    """

    def update(self, times: Sequence[float], following: float, place: StepPlace) -> UpdateWeights:
        return UpdateWeights(0.0, (1.0 - following,), following if place.remaining > 1 else 0.0)


@dataclass(frozen=True)
class TCD(FewStep):
    """Strategic stochastic sampling of trajectory consistency distillation (TCD, arXiv 2402.19159, algorithm 4): down
    the path to timestep (1 - eta) times the next, and back up to the next with fresh noise.

    eta: gamma in the paper. 0 follows the path (DDIM, Euler) and is right for models that were distilled for it; 1 is
    LCM. Noise hides the errors of earlier outputs: 0.3 is the authors' choice, more with many steps, and 0 to 0.2 where
    a model was distilled in phases (PCM, Hyper-SD). Flow models have no timesteps: there it is the flow time that is
    multiplied. Memory: none. Not for models that were not distilled.
    """

    eta: float = setting(0.3, 0.0, 1.0, "how far below the next noise level to go first; 0 adds no noise")

    def update(self, times: Sequence[float], following: float, place: StepPlace) -> UpdateWeights:
        below = self.next_level(following, place.ladder) if place.remaining > 1 else following
        keep = below / times[-1]
        share = (1.0 - following) / (1.0 - below)  # of the picture, which the noise takes the place of
        noise = math.sqrt(max(following**2 - (share * below) ** 2, 0.0))
        return UpdateWeights(share * keep, (share * (1.0 - keep),), noise)

    def next_level(self, following: float, ladder: Sequence[float]) -> float:
        """The noise level of timestep (1 - eta) times that of `following`; of the level itself where eta is 0."""
        if self.eta == 0.0:
            return following
        if not ladder:
            return (1.0 - self.eta) * following
        return ladder[math.floor((1.0 - self.eta) * nearest(following, ladder))]


@dataclass(frozen=True)
class TDD(TCD):
    """Target-driven distillation (arXiv 2409.01347): TCD's update on a grid of 250, at even or uneven timesteps, with
    the first estimates clipped if `clip` says so.

    eta: 0.2 with the published LoRAs at 4 to 8 steps and guidance 1.7 to 2. spacing "uneven": the authors' timesteps
    for 5, 6 and 7 steps. Where the clean estimates are clipped (clip=1, quantile=0.995, clip_steps=1), what they imply
    about the noise follows them. Memory: none. Not for models that were not distilled.
    """

    eta: float = setting(0.2, 0.0, 1.0, "how far below the next noise level to go first; 0 adds no noise")
    spacing: str = setting(
        "even", choices=("even", "uneven"), help="uneven: the authors' timesteps for 5, 6 and 7 steps"
    )

    @property
    def grid(self) -> Sigmas | None:
        return Origin(250, self.spacing) if self.sigmas is None else self.sigmas


def nearest(level: float, ladder: Sequence[float]) -> int:
    """The index of the entry of a rising ladder that is nearest to `level`."""
    above = min(bisect_left(ladder, level), len(ladder) - 1)
    return above if above == 0 or ladder[above] - level < level - ladder[above - 1] else above - 1
