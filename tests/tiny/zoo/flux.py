"""Flux and what descends from it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import ChromaTransformer2DModel

from tests.tiny.case import Ask
from tests.tiny.image import image_vae
from tests.tiny.zoo.case import Case, pil
from tests.tiny.zoo.parts import make

SIXTEEN: dict[str, Any] = {"vae": partial(image_vae, 16)}


CLOZE = SIXTEEN | {"transformer": {"in_channels": 384, "out_channels": 64}, "resolution": 32}


def chroma_inpainting() -> torch.nn.Module:
    """The pipeline reads a setting that the model does not have: with it, it runs."""
    model = make(ChromaTransformer2DModel, {})
    model.register_to_config(guidance_embeds=False)
    return model


def whole_prompts(ask: Ask) -> dict[str, Any]:
    """Masks as floats: diffusers hands them on as they are."""
    names = ["prompt_attention_mask", *(["negative_prompt_attention_mask"] if ask.guidance else [])]
    return {name: torch.ones(ask.batch, 8) for name in names}


def cloze(ask: Ask) -> dict[str, Any]:
    rows = [[pil(1, 32, 32), pil(2, 32, 32)], [pil(3, 32, 32), None]]
    words = {"task_prompt": "one from the other", "content_prompt": f"thing number {ask.prompt}"}
    return words | {"image": rows}


def kontext(ask: Ask) -> dict[str, Any]:
    return {"max_area": 64 * 64, "_auto_resize": False}


def cloze_twice(ask: Ask) -> dict[str, Any]:
    """The picture is enlarged in a second run, to this size."""
    return cloze(ask) | {"upsampling_height": 64, "upsampling_width": 64, "upsampling_strength": 0.9}


CASES = (
    Case("FluxPipeline", SIXTEEN),
    Case("FluxImg2ImgPipeline", SIXTEEN),
    Case("FluxInpaintPipeline", SIXTEEN),
    Case("FluxControlPipeline", SIXTEEN | {"transformer": {"in_channels": 128, "out_channels": 64}}),
    Case("FluxControlImg2ImgPipeline", SIXTEEN | {"transformer": {"in_channels": 128, "out_channels": 64}}),
    Case("FluxControlInpaintPipeline", SIXTEEN | {"transformer": {"in_channels": 128, "out_channels": 64}}),
    Case("FluxControlNetPipeline", SIXTEEN),
    Case("FluxControlNetImg2ImgPipeline", SIXTEEN),
    Case("FluxControlNetInpaintPipeline", SIXTEEN),
    Case("FluxFillPipeline", SIXTEEN | {"transformer": {"in_channels": 384, "out_channels": 64}}),
    Case("FluxKontextPipeline", SIXTEEN, kontext),
    Case("FluxKontextInpaintPipeline", SIXTEEN, kontext),
    Case("Flux2Pipeline"),
    Case("Flux2KleinPipeline"),
    Case("Flux2KleinInpaintPipeline"),
    Case("Flux2KleinKVPipeline"),
    Case("ChromaPipeline", SIXTEEN, whole_prompts),
    Case("ChromaImg2ImgPipeline", SIXTEEN),
    Case("ChromaInpaintPipeline", SIXTEEN | {"transformer": chroma_inpainting}),
    Case("OvisImagePipeline", SIXTEEN),
    Case("VisualClozePipeline", CLOZE, cloze_twice, words=True, alone="one row of pictures a call"),
    Case("VisualClozeGenerationPipeline", CLOZE, cloze, words=True, alone="one row of pictures a call"),
)
