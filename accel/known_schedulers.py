"""What is known of diffusers' schedulers and cannot be asked of a copy, one row each; `accel.schedulers` asks the rest.

Which may stand in for which, for models that predict noise, v or the sample: those that solve the same equation from
the same configuration, one evaluation per step. That others run proves nothing: an Euler scheduler runs on flow models
and gives noise. Flows are not among them (their schedulers differ in the end of the run, the sign and the rounding of
timesteps), nor models distilled for a scheduler (LCM, TCD, EDM's and SVD's noise levels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from accel.update import config_of


@dataclass(frozen=True)
class KnownScheduler:
    """One scheduler class.

    exchanges: the classes that may stand in for it. settings: what must be set on it where it stands in for another,
    because its own default is another scheduler's trap (DDIM clips to pixels). pure_noise: whether it knows models that
    were trained to start from pure noise. own_noise_table: its noise levels are not what the settings of its
    configuration say, so that the others are given the levels themselves, as `trained_betas` (CogVideoX's shift of the
    signal-to-noise ratio). repeats_levels: it can be told the same noise level twice: a step that goes nowhere divides
    by nothing in it.
    """

    name: str
    exchanges: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    pure_noise: bool = False
    own_noise_table: bool = False
    repeats_levels: bool = False


def known_scheduler(scheduler: object) -> KnownScheduler:
    """What is known of the class of a scheduler."""
    kind = type(scheduler).__name__
    return KNOWN.get(kind, KnownScheduler(kind))


_SOLVERS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
)
_DPM = {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
_ROWS = (
    KnownScheduler("DDIMScheduler", _SOLVERS, {"clip_sample": False}, pure_noise=True),
    KnownScheduler("EulerDiscreteScheduler", _SOLVERS, pure_noise=True),
    KnownScheduler("DPMSolverMultistepScheduler", _SOLVERS, _DPM, pure_noise=True),
    KnownScheduler("DPMSolverSinglestepScheduler", _SOLVERS, _DPM),
    KnownScheduler("UniPCMultistepScheduler", _SOLVERS, {"solver_type": "bh2"}, pure_noise=True),
    KnownScheduler("DEISMultistepScheduler", _SOLVERS, {"algorithm_type": "deis", "solver_type": "logrho"}),
    KnownScheduler("DDPMScheduler", _SOLVERS),
    KnownScheduler("PNDMScheduler", _SOLVERS),
    KnownScheduler("LMSDiscreteScheduler", _SOLVERS),
    KnownScheduler("EulerAncestralDiscreteScheduler", _SOLVERS),
    KnownScheduler("HeunDiscreteScheduler", _SOLVERS),
    KnownScheduler("KDPM2DiscreteScheduler", _SOLVERS),
    KnownScheduler(
        "CogVideoXDDIMScheduler",
        ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
        own_noise_table=True,
    ),
    KnownScheduler("FlowMatchEulerDiscreteScheduler", repeats_levels=True),
)
KNOWN = {row.name: row for row in _ROWS}

# A model was trained to start from pure noise if its share of signal (squared) at the last training timestep is at most
# this, and then it can have these spacings: in sigma, which is infinite there, half of a run would be spent on the
# first timestep.
PURE_NOISE = 1e-4
PURE_NOISE_SPACINGS = ("leading", "linspace", "trailing")

# Settings that must have these values (or not be there) for a scheduler to be exchanged: others say that the estimate
# is changed on the way or that the model is not told training timesteps.
PLAIN_SETTINGS: dict[str, object] = {
    "thresholding": False,
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "use_flow_sigmas": False,
}

# The settings of diffusers' schedulers by which noise levels are spaced.
SPACINGS: dict[str, dict[str, object]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "lu": {"use_lu_lambdas": True},
    "leading": {"timestep_spacing": "leading"},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
}

# Arguments of `step` that ask for another update: noise added, the estimate clipped, noise levels for each token.
OTHER_UPDATES = ("eta", "s_churn", "use_clipped_model_output", "variance_noise", "per_token_timesteps")


def exchangeable(scheduler: Any, prediction: str) -> dict[str, tuple[str, ...]]:
    """The scheduler classes of diffusers that can replace this one for the same model, and the spacings that they may
    have.
    """
    config, alphas = config_of(scheduler), getattr(scheduler, "alphas_cumprod", None)
    if "flow" in prediction or not isinstance(alphas, torch.Tensor):
        return {}
    if any(config.get(setting) not in (None, usual) for setting, usual in PLAIN_SETTINGS.items()):
        return {}
    found = known_scheduler(scheduler).exchanges
    if float(alphas[-1]) > PURE_NOISE:
        return {other: tuple(SPACINGS) for other in found}
    able = (other for other in found if KNOWN[other].pure_noise)
    return {other: PURE_NOISE_SPACINGS for other in able}
