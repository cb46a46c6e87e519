"""Transformers that make pictures, and Stable Diffusion 3."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import SCMScheduler
from diffusers.guiders import AdaptiveProjectedMixGuidance

from tests.tiny.case import Ask
from tests.tiny.image import POOLED, TEXT, image_vae
from tests.tiny.unusual import Processor
from tests.tiny.zoo.case import Case, drawn_by_one

SIXTEEN: dict[str, Any] = {"vae": partial(image_vae, 16)}
SD3 = SIXTEEN
SPRINT = {"transformer": {"guidance_embeds": True}, "scheduler": SCMScheduler}
AMUSED = {"vqvae": {"norm_type": "group", "num_vq_embeddings": 24}}
ARRAYS = {"output_type": "np"}


def layered(ask: Ask) -> dict[str, Any]:
    """Embeddings of three layers of the text encoder."""
    given = {"prompt_embeds": ask.words(8, 3, TEXT)}
    return given | ({"negative_prompt_embeds": ask.negative_words(8, 3, TEXT)} if ask.guidance else {})


def wholly_layered(ask: Ask) -> dict[str, Any]:
    whole = torch.ones(ask.batch, 8, dtype=torch.bool)
    given = layered(ask) | {"prompt_embeds_mask": whole}
    return given | ({"negative_prompt_embeds_mask": whole} if ask.guidance else {})


def listed(ask: Ask) -> dict[str, Any]:
    """Prompts as lists of tensors of unequal length."""
    given: dict[str, Any] = {"prompt_embeds": list(ask.words(8, TEXT))}
    if ask.guidance:
        given["negative_prompt_embeds"] = list(ask.negative_words(5, TEXT))
    return given


def drawn_arrays(ask: Ask) -> dict[str, Any]:
    return ARRAYS | drawn_by_one(ask)


def four_encoders(ask: Ask) -> dict[str, Any]:
    """HiDream's: two pooled ones in one, T5, and the layers of a Llama, more of them than rows of any batch."""
    given = {
        "pooled_prompt_embeds": ask.words(2 * POOLED),
        "prompt_embeds_t5": ask.words(8, TEXT),
        "prompt_embeds_llama3": torch.stack([ask.words(8, TEXT)] * 5),
    }
    if ask.guidance:
        given |= {
            "negative_pooled_prompt_embeds": ask.negative_words(2 * POOLED),
            "negative_prompt_embeds_t5": ask.negative_words(8, TEXT),
            "negative_prompt_embeds_llama3": torch.stack([ask.negative_words(8, TEXT)] * 5),
        }
    return given


CASES = (
    Case("AuraFlowPipeline"),
    Case("BriaPipeline"),
    Case("BriaFiboPipeline"),
    Case(
        "BriaFiboEditPipeline", {}, {"prompt": '{"edit_instruction": "a picture of a thing"}'}, alone="one edit a call"
    ),
    Case("CogView3PlusPipeline"),
    Case("CogView4Pipeline"),
    Case("CogView4ControlPipeline", {"transformer": {"in_channels": 8, "out_channels": 4}}),
    Case("DiTPipeline", {}, lambda ask: {"class_labels": list(range(1, 1 + ask.batch)), "output_type": "np"}),
    Case("ErnieImagePipeline"),
    Case("HiDreamImagePipeline", {}, four_encoders, leave_out=("prompt", "negative_prompt")),
    Case("HunyuanDiTPipeline"),
    Case("HunyuanDiTPAGPipeline"),
    Case("HunyuanDiTControlNetPipeline"),
    Case("HunyuanImagePipeline", {"guider": lambda: AdaptiveProjectedMixGuidance(3.5)}),
    Case("Krea2Pipeline", {}, wholly_layered),
    Case("LuminaPipeline"),
    Case("Lumina2Pipeline"),
    Case("NucleusMoEImagePipeline"),
    Case("PixArtAlphaPipeline"),
    Case("PixArtSigmaPipeline"),
    Case("PixArtSigmaPAGPipeline"),
    Case("PRXPipeline", SIXTEEN, alone="with masks of one length each, batches are not its call's"),
    Case(
        "PRXPixelPipeline",
        {"transformer": {"in_channels": 3}},
        size=(32, 32),
        alone="with masks of one length each, batches are not its call's",
    ),
    Case("QwenImagePipeline"),
    Case("QwenImageImg2ImgPipeline"),
    Case("QwenImageInpaintPipeline"),
    Case("QwenImageControlNetPipeline"),
    Case("QwenImageControlNetInpaintPipeline", {"controlnet": {"extra_condition_channels": 4}}),
    Case("QwenImage21Pipeline", {"processor": Processor}, leave_out=("image",)),
    Case("SanaPipeline"),
    Case("SanaPAGPipeline"),
    Case("SanaControlNetPipeline"),
    Case("SanaSprintPipeline", SPRINT, {"intermediate_timesteps": None}),
    Case("SanaSprintImg2ImgPipeline", SPRINT, {"intermediate_timesteps": None}),
    Case("StableDiffusion3Pipeline", SD3),
    Case("StableDiffusion3Img2ImgPipeline", SD3, rows=True),
    Case("StableDiffusion3InpaintPipeline", SD3),
    Case("StableDiffusion3PAGPipeline", SD3),
    Case("StableDiffusion3PAGImg2ImgPipeline", SD3, rows=True),
    Case("StableDiffusion3ControlNetPipeline", SD3),
    Case("StableDiffusion3ControlNetInpaintingPipeline", SD3 | {"controlnet": {"extra_conditioning_channels": 1}}),
    Case("ZImagePipeline", SIXTEEN, listed, off=0.0),
    Case("ZImageImg2ImgPipeline", SIXTEEN, listed, off=0.0),
    Case("ZImageInpaintPipeline", SIXTEEN, listed, off=0.0),
    Case("ZImageControlNetPipeline", SIXTEEN, listed, off=0.0),
    Case(
        "ZImageControlNetInpaintPipeline", SIXTEEN | {"controlnet": {"control_in_dim": 33}}, listed, rows=True, off=0.0
    ),
    Case("AmusedPipeline", AMUSED, drawn_by_one, words=True),
    Case("AmusedImg2ImgPipeline", AMUSED, drawn_by_one, words=True, rows=True),
    Case("AmusedInpaintPipeline", AMUSED, drawn_by_one, words=True, rows=True),
    Case("VQDiffusionPipeline", {"text_encoder": {"pooled": TEXT}}, drawn_arrays),
)
