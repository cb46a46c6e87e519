"""Schedulers."""

from __future__ import annotations

from typing import Any

from tests.tiny.image import BETAS, TEXT

SCHEDULERS: dict[str, dict[str, Any]] = {
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "UniPCMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    "DDIMScheduler": {**BETAS, "steps_offset": 1, "clip_sample": False},
    "DDPMScheduler": {**BETAS, "clip_sample": False},
    "PNDMScheduler": {**BETAS, "steps_offset": 1, "skip_prk_steps": True},
    "EulerDiscreteScheduler": {**BETAS, "steps_offset": 1, "timestep_spacing": "leading"},
    "DPMSolverMultistepScheduler": {**BETAS},
    "UnCLIPScheduler": {},
    "AmusedScheduler": {"mask_token_id": 31},
    "VQDiffusionScheduler": {"num_vec_classes": 12},
    "LearnedClassifierFreeSamplingEmbeddings": {"learnable": False},
    "AudioLDM2ProjectionModel": {"text_encoder_dim": TEXT, "text_encoder_1_dim": TEXT, "langauge_model_dim": TEXT},
    "LCMScheduler": {**BETAS, "clip_sample": False},
    "CogVideoXDDIMScheduler": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
}
