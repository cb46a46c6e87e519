"""The schedulers of diffusers, all of them and with the settings that change what they do, each in a fresh copy."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import diffusers.schedulers

FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}

# What a class is built with where its defaults are for something else (clipping to pixels) or do not suffice.
SETTINGS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False},
    "DDIMInverseScheduler": {"clip_sample": False},
    "DDIMParallelScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "DDPMParallelScheduler": {"clip_sample": False},
    "UnCLIPScheduler": {"clip_sample": False},
}

# Not for continuous samples, or not steps of one loop: tokens, masks, decoders, proteins.
OTHERS = (
    "AmusedScheduler",
    "BlockRefinementScheduler",
    "ConsistencyDecoderScheduler",
    "DiscreteDDIMScheduler",
    "EntropyBoundScheduler",
    "RFD4ProteinaScheduler",
    "VQDiffusionScheduler",
)


def classes() -> Iterator[tuple[str, Any]]:
    """Every scheduler class that can be imported here (some need packages that are not installed)."""
    for found in pkgutil.iter_modules(diffusers.schedulers.__path__):
        if found.name == "deprecated":
            continue
        try:
            module = importlib.import_module(f"diffusers.schedulers.{found.name}")
        except ImportError:
            continue
        for name, kind in list(vars(module).items()):
            if not (inspect.isclass(kind) and kind.__module__ == module.__name__ and name not in OTHERS):
                continue
            if hasattr(kind, "step") and hasattr(kind, "set_timesteps"):
                yield name, kind


def _made(kind: Any, settings: dict[str, Any]) -> Callable[[], Any]:
    return lambda: kind(**settings)


SCHEDULERS: dict[str, Callable[[], Any]] = {name: _made(kind, SETTINGS.get(name, {})) for name, kind in classes()} | {
    name: _made(getattr(diffusers, kind), settings)
    for name, kind, settings in (
        ("ddim trailing", "DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}),
        ("ddim linspace", "DDIMScheduler", {"timestep_spacing": "linspace", "clip_sample": False}),
        ("ddim v", "DDIMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}),
        ("ddim sample", "DDIMScheduler", {"prediction_type": "sample", "clip_sample": False}),
        (
            "ddim v from pure noise",
            "DDIMScheduler",
            {
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "clip_sample": False,
            },
        ),
        ("ddim clipped", "DDIMScheduler", {"clip_sample": True}),
        ("ddim thresholded", "DDIMScheduler", {"clip_sample": False, "thresholding": True}),
        ("euler v", "EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
        ("euler sample", "EulerDiscreteScheduler", {"prediction_type": "sample"}),
        ("euler karras", "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("pndm without prk", "PNDMScheduler", {"skip_prk_steps": True}),
        ("unipc 3", "UniPCMultistepScheduler", {"solver_order": 3}),
        (
            "unipc bh1 3",
            "UniPCMultistepScheduler",
            {"solver_type": "bh1", "solver_order": 3, "final_sigmas_type": "sigma_min"},
        ),
        ("unipc v", "UniPCMultistepScheduler", {"prediction_type": "v_prediction"}),
        ("unipc without first corrector", "UniPCMultistepScheduler", {"disable_corrector": [0]}),
        ("unipc flow", "UniPCMultistepScheduler", FLOW),
        ("unipc flow 3", "UniPCMultistepScheduler", {**FLOW, "solver_order": 3}),
        ("dpm 3 karras", "DPMSolverMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
        ("dpm heun", "DPMSolverMultistepScheduler", {"solver_type": "heun"}),
        ("dpm flow", "DPMSolverMultistepScheduler", FLOW),
        ("dpm sde", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("flow shifted", "FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
        ("flow with a terminal", "FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}),
        ("flow inverted", "FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        ("flow stochastic", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        ("edm v", "EDMEulerScheduler", {"prediction_type": "v_prediction"}),
        ("ltx without noise", "LTXEulerAncestralRFScheduler", {"eta": 0.0}),
    )
}
