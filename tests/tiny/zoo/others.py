"""Pipelines without text, those that make sound, and those that make neither pictures nor sound."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, IPNDMScheduler

from tests.tiny.case import Ask
from tests.tiny.image import TEXT
from tests.tiny.zoo.case import Case
from tests.tiny.zoo.stable_diffusion import MONO, vocoder
from tests.tiny.zoo.stand_ins import text_encoder

ARRAYS = {"output_type": "np"}
LATENTS = {"unet": {"in_channels": 4, "out_channels": 4}}
SOUND = {"audio": torch.zeros(1, 2, 256)}


def two_languages(ask: Ask) -> dict[str, Any]:
    given = {
        "prompt_embeds": ask.words(8, TEXT),
        "generated_prompt_embeds": ask.words(4, TEXT),
        "attention_mask": torch.ones(ask.batch, 8, dtype=torch.long),
        "audio_length_in_s": 0.1,
    }
    if ask.guidance:
        given |= {
            "negative_prompt_embeds": ask.negative_words(8, TEXT),
            "negative_generated_prompt_embeds": ask.negative_words(4, TEXT),
            "negative_attention_mask": torch.ones(ask.batch, 8, dtype=torch.long),
        }
    return given


CASES = (
    Case("DDIMPipeline", {}, lambda ask: ARRAYS | {"batch_size": ask.batch}),
    Case("DDPMPipeline", {}, lambda ask: ARRAYS | {"batch_size": ask.batch}),
    Case("PNDMPipeline", {}, lambda ask: ARRAYS | {"batch_size": ask.batch}),
    Case("ScoreSdeVePipeline", {}, lambda ask: ARRAYS | {"batch_size": ask.batch}),
    Case("KarrasVePipeline", {}, lambda ask: ARRAYS | {"batch_size": ask.batch}),
    Case("LDMPipeline", LATENTS, lambda ask: ARRAYS | {"batch_size": ask.batch}),
    Case(
        "LDMSuperResolutionPipeline",
        {"unet": {"in_channels": 6, "out_channels": 3}, "vqvae": {"latent_channels": 3, "vq_embed_dim": 3}},
        ARRAYS,
        size=(32, 32),
    ),
    Case("ConsistencyModelPipeline", {}, lambda ask: ARRAYS | {"batch_size": ask.batch}),
    Case("DanceDiffusionPipeline", {"scheduler": IPNDMScheduler}, lambda ask: {"batch_size": ask.batch}),
    Case(
        "RePaintPipeline",
        {},
        ARRAYS | {"jump_length": 1, "jump_n_sample": 1},
        size=(32, 32),
        alone="one picture a call",
    ),
    Case("StableAudioPipeline"),
    Case("StableAudio3Pipeline"),
    Case(
        "StableAudio3InpaintPipeline",
        {},
        SOUND | {"mask_start_seconds": 0.5, "mask_end_seconds": 1.0},
        leave_out=("mask",),
    ),
    Case("StableAudio3AudioToAudioPipeline", {}, SOUND),
    Case(
        "AceStepPipeline",
        {"scheduler": lambda: FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)},
        alone="one song a call here",
    ),
    Case(
        "AudioLDM2Pipeline",
        {
            "vae": MONO,
            "vocoder": vocoder,
            "language_model": text_encoder,
            "text_encoder": text_encoder,
            "text_encoder_2": text_encoder,
            "feature_extractor": None,
        },
        two_languages,
    ),
    Case("LongCatAudioDiTPipeline"),
)
